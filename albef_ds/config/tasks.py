"""Settings of each task, one frozen dataclass per task, distinguished by `kind`: objectives and distillation.

`DataConfig` has the settings of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from typing_extensions import Self

from albef_ds.config.fields import not_negative, positive, require, setting, share

NLVR_LABELS = {"False": 0, "True": 1}
ENTAILMENT_LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
"""Class numbers of the released code."""
ItmScore = Literal["margin", "match"]
_KIND = "task that is trained; the recipe sets it"


@dataclass(frozen=True, kw_only=True)
class BaseTaskConfig:
    """Settings that every task has."""

    kind: str = setting("", _KIND)
    main_metrics: ClassVar[tuple[str, ...]] = ()
    """Main metric, by which a checkpoint is chosen, higher is better; the first that an evaluation gives. It is here and not in
    `tasks/registry.py` so that listing runs does not import torch."""
    compat: bool = setting(False, "reproduce the released code where it differs (docs/architecture.md lists the points)")

    @property
    def paired_layers(self) -> bool:
        """True if each multimodal layer consists of two blocks, one per image, that share keys and values."""
        return False

    @property
    def uses_momentum(self) -> bool:
        """True if the task computes anything from the momentum model, so that it has to exist."""
        return False

    def without_queue(self) -> Self:
        """Returns the same settings without a feature queue, for uses that do not train."""
        return self

    def check_batch(self, micro_batch_size: int) -> None:
        """Raises `ConfigError` if the task cannot be trained on this micro-batch."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(BaseTaskConfig):
    """Momentum distillation (paper section 3.3)."""

    momentum: float = setting(0.995, "decay m of the exponential moving average", paper="0.995")
    alpha: float = setting(0.4, "weight of the momentum model's pseudo-targets", paper="0.4")
    alpha_ramp_epochs: float = setting(1.0, "epochs over which alpha rises linearly from 0", unit="epochs", paper="1")
    momentum_dropout: bool = setting(False, "leave dropout on in the momentum model", paper="on in the released code")

    def __post_init__(self) -> None:
        share("task", self, "momentum", "alpha")
        not_negative("task", self, "alpha_ramp_epochs")

    @property
    def uses_momentum(self) -> bool:
        """True if the task computes anything from the momentum model, so that it has to exist."""
        return self.alpha > 0.0

    def alpha_at(self, epoch: float) -> float:
        """Returns alpha at `epoch` (fractional, from 0) of its linear ramp."""
        return self.alpha * (min(1.0, epoch / self.alpha_ramp_epochs) if self.alpha_ramp_epochs > 0 else 1.0)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(DistillationConfig):
    """ITC against a queue, and ITM with hard negatives (paper section 3.2)."""

    main_metrics: ClassVar[tuple[str, ...]] = ("retrieval/mean_recall_itm",)
    queue_size: int = setting(65536, "momentum features kept per modality as extra ITC negatives", paper="65536")
    temperature: float = setting(0.07, "initial temperature of the similarities", paper="0.07")
    temperature_min: float = setting(0.001, "lower clamp of the learned temperature", paper="0.001 (released code)")
    temperature_max: float = setting(0.5, "upper clamp of the learned temperature", paper="0.5 (released code)")
    itc_weight: float = setting(1.0, "weight of the image-text contrastive loss", paper="1")
    itm_weight: float = setting(1.0, "weight of the image-text matching loss", paper="1")
    itm_random_negatives: float = setting(
        0.0, "share of ITM negatives drawn uniformly; above 0 helps a model from scratch to leave the base rate", paper="0"
    )
    itm_random_epochs: float = setting(
        0.0, "epochs over which `itm_random_negatives` falls linearly to 0; 0 keeps it constant", unit="epochs", paper="0"
    )
    itm_score: Literal["margin", "match"] = setting(
        "margin",
        "score by which an evaluation's ITM ranking orders candidates; margin: logit of match minus that of no match; match: the "
        "former alone, always with task.compat=true",
        paper="match (released code)",
    )
    gather_negatives: bool = setting(False, "contrast and draw negatives over all ranks' batches, not the local one", paper="no")
    mask_unfilled_queue: bool = setting(
        True, "leave out queue entries that do not hold a feature yet", paper="no (random vectors)"
    )
    mask_known_positives: bool = setting(
        True, "samples with the same image or caption are not negatives: shared ITC targets, never drawn for ITM", paper="no"
    )

    false_negatives: Literal["off", "mask", "positive"] = setting(
        "off",
        "negatives that the momentum model takes for matching; mask: neither negatives nor positives (needs "
        "compute.wide_losses=plain); positive: positives of ITC and ITM",
        paper="no",
    )
    false_negatives_by: Literal["itm", "itc"] = setting(
        "itm",
        "probability that decides; itm: of each drawn negative, one more fusion pass of the momentum model; itc: of every "
        "candidate against the row's own pair, 0.5 where both are as similar",
    )
    false_negative_threshold: float = setting(
        0.8, "probability from which a negative is taken for a false one; 0: drawn with its probability"
    )
    itc_smoothing: float = setting(0.0, "share of ITC's targets that is spread evenly over all candidates", paper="0")
    itc_consistency: float = setting(
        0.0, "weight of the consistency of both directions of ITC, whose targets are each other's probabilities", paper="0"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("task", self, "queue_size", "itm_random_epochs", "itc_weight", "itm_weight", "itc_consistency")
        share("task", self, "itm_random_negatives", "false_negative_threshold", "itc_smoothing")
        positive("task", self, "temperature", "temperature_min")
        require(
            self.temperature_min <= self.temperature <= self.temperature_max,
            "task.temperature",
            f"{self.temperature} is outside [{self.temperature_min}, {self.temperature_max}]",
            "change it or task.temperature_min / task.temperature_max",
        )

    @property
    def uses_momentum(self) -> bool:
        """Always True: ITC contrasts with momentum features."""
        return True

    @property
    def ranking_score(self) -> ItmScore:
        """`itm_score`, which `compat` replaces by that of the released code."""
        return "match" if self.compat else self.itm_score

    def without_queue(self) -> Self:
        """Returns the same settings with a queue of size 0."""
        return replace(self, queue_size=0)

    def random_negatives_at(self, epoch: float) -> float:
        """Returns the share of uniformly drawn ITM negatives at `epoch`."""
        fall = max(0.0, 1.0 - epoch / self.itm_random_epochs) if self.itm_random_epochs > 0 else 1.0
        return self.itm_random_negatives * fall

    def check_batch(self, micro_batch_size: int) -> None:
        """Checks that ITM has a negative."""
        require(
            micro_batch_size >= 2 or self.gather_negatives or self.itm_weight == 0,
            "train.micro_batch_size",
            "of 1 leaves image-text matching without a negative in the batch",
            "use 2 or more, or task.gather_negatives=true on several ranks",
        )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ContrastiveConfig):
    """ITC + MLM + ITM with momentum distillation (paper sections 3.2 and 3.3)."""

    kind: Literal["pretrain"] = setting("pretrain", _KIND)
    mlm_weight: float = setting(1.0, "weight of the masked-language-modelling loss", paper="1")
    align_epochs: float = setting(
        0.0, "first epochs with ITC alone: a step without fusion costs a fraction", unit="epochs", paper="0"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("task", self, "mlm_weight", "align_epochs")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(ContrastiveConfig):
    """ITC + ITM on annotated pairs (paper section 5, image-text retrieval); grounding trains the same way."""

    kind: Literal["retrieval"] = setting("retrieval", _KIND)
    main_metrics: ClassVar[tuple[str, ...]] = ("grounding/val_accuracy", "retrieval/mean_recall_itm")
    k_test: int = setting(128, "candidates per query that ITM re-ranks in evaluation", paper="128 (Flickr30K), 256 (COCO)")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("task", self, "k_test")


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(DistillationConfig):
    """A class per sample from the fused [CLS] (paper section 5: visual entailment, NLVR2)."""

    kind: Literal["classification"] = setting("classification", _KIND)
    main_metrics: ClassVar[tuple[str, ...]] = ("classification/accuracy",)
    num_classes: int = setting(3, "classes", paper="3 (SNLI-VE), 2 (NLVR2)")
    class_names: str = setting(
        "", "labels in the annotations, comma-separated, in the order of the classes; empty: those of SNLI-VE or NLVR2"
    )
    num_images: int = setting(
        1, "images per sample; with 2 each multimodal layer becomes two blocks that share keys and values", paper="1, 2 (NLVR2)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes >= 2, "task.num_classes", f"is {self.num_classes}", "give 2 or more")
        require(self.num_images in (1, 2), "task.num_images", f"is {self.num_images}", "give 1 or 2")
        names = [name.strip() for name in self.class_names.split(",")]
        require(
            not self.class_names or (all(names) and len(set(names)) == len(names) == self.num_classes),
            "task.class_names",
            f"is {self.class_names}, which is not {self.num_classes} different names",
            "give one name per class, or change task.num_classes",
        )

    @property
    def labels(self) -> dict[str, int]:
        """The label of each class in annotations -> its number; by default the released code's."""
        names = [name.strip() for name in self.class_names.split(",")]
        if not self.class_names:
            return NLVR_LABELS if self.num_images == 2 else ENTAILMENT_LABELS
        return {name: number for number, name in enumerate(names)}

    @property
    def paired_layers(self) -> bool:
        """True with two images per sample."""
        return self.num_images == 2


@dataclass(frozen=True, kw_only=True)
class TextAssignmentConfig(BaseTaskConfig):
    """Pretraining for NLVR2: whether a text belongs to the first, the second, or neither of two images (paper section 5)."""

    kind: Literal["text_assignment"] = setting("text_assignment", _KIND)
    temperature: float = setting(0.07, "temperature of the image similarities that pair images", paper="0.07 (released code)")

    def __post_init__(self) -> None:
        positive("task", self, "temperature")

    @property
    def paired_layers(self) -> bool:
        """Always True: each text is paired with two images."""
        return True

    def check_batch(self, micro_batch_size: int) -> None:
        """Checks that there are two other images for the third class."""
        require(
            micro_batch_size >= 3,
            "train.micro_batch_size",
            f"of {micro_batch_size} leaves a text without two other images in the batch",
            "use 3 or more",
        )


@dataclass(frozen=True, kw_only=True)
class VqaConfig(DistillationConfig):
    """Questions answered by a decoder over the fused question (paper section 5, visual question answering)."""

    kind: Literal["vqa"] = setting("vqa", _KIND)
    main_metrics: ClassVar[tuple[str, ...]] = ("vqa/accuracy",)
    decoder_layers: int = setting(6, "layers of the answer decoder", paper="6")
    k_test: int = setting(128, "answers of the list that evaluation ranks by all of their tokens", paper="128")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("task", self, "decoder_layers", "k_test")


TaskConfig = PretrainConfig | RetrievalConfig | ClassificationConfig | TextAssignmentConfig | VqaConfig
"""Settings of any task, chosen by `kind` in a file; without `kind` it is pretraining."""
