"""Defines every setting of a run as a field of a frozen dataclass.

Each field has its meaning, unit and the paper's value (Li et al., arXiv 2107.07651) as metadata, which `albef-ds config` prints.
Checks within a section are in its `__post_init__`, checks across sections in `RunConfig`'s. Needs no torch, files or devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from albef_ds.common.errors import ConfigError
from albef_ds.config.data import DataConfig
from albef_ds.config.engine import EngineConfig
from albef_ds.config.fields import not_negative, positive, require, setting, share
from albef_ds.config.tasks import (
    ClassificationConfig,
    PretrainConfig,
    RetrievalConfig,
    TaskConfig,
    TextAssignmentConfig,
    VqaConfig,
)
from albef_ds.config.train import TrainConfig

# Classes of other modules that are imported from here.
__all__ = [
    "ClassificationConfig",
    "DataConfig",
    "EngineConfig",
    "PretrainConfig",
    "RetrievalConfig",
    "TaskConfig",
    "TextAssignmentConfig",
    "TrainConfig",
    "VqaConfig",
]


def _heads_divide(section: str, width: int, num_heads: int) -> None:
    require(
        width % num_heads == 0,
        f"{section}.width",
        f"{width} is not divisible by {section}.num_heads {num_heads}",
        "change one of them",
    )


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Visual encoder: a ViT (paper section 3.1)."""

    image_size: int = setting(256, "side of the square input image", unit="pixels", paper="256, 384 fine-tuned")
    patch_size: int = setting(16, "side of a patch", unit="pixels", paper="16")
    width: int = setting(768, "width of the token embeddings", paper="768")
    depth: int = setting(12, "number of blocks", paper="12")
    num_heads: int = setting(12, "attention heads per block", paper="12")
    mlp_ratio: float = setting(4.0, "hidden width of the feed-forward part over `width`", paper="4")
    stem: Literal["patch", "convolution"] = setting(
        "patch", "one patch projection, or a stack of stride-2 convolutions that learns faster on little data", paper="patch"
    )
    frozen: bool = setting(False, "keep the image encoder's weights as loaded (not its projection)", paper="no")

    def __post_init__(self) -> None:
        positive("model.vision", self, "image_size", "patch_size", "width", "depth", "num_heads", "mlp_ratio")
        require(
            self.image_size % self.patch_size == 0,
            "model.vision.image_size",
            f"{self.image_size} is not divisible by model.vision.patch_size {self.patch_size}",
            f"use {max(1, round(self.image_size / self.patch_size)) * self.patch_size}",
        )
        _heads_divide("model.vision", self.width, self.num_heads)
        require(
            self.stem == "patch" or (self.patch_size & (self.patch_size - 1) == 0 and self.patch_size >= 2),
            "model.vision.patch_size",
            f"{self.patch_size} cannot be made of stride-2 convolutions",
            "use a power of two, or model.vision.stem=patch",
        )

    @property
    def num_tokens(self) -> int:
        """Number of image tokens, [CLS] included."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """BERT layers of the text encoder and, after it, the multimodal encoder (paper section 3.1)."""

    vocab_size: int = setting(30522, "WordPiece vocabulary", paper="30522 (bert-base-uncased)")
    width: int = setting(768, "width of the hidden states", paper="768")
    num_layers: int = setting(6, "layers of the text encoder", paper="6 (first half of BERT-base)")
    num_fusion_layers: int = setting(6, "layers of the multimodal encoder", paper="6 (second half of BERT-base)")
    num_heads: int = setting(12, "attention heads per layer", paper="12")
    intermediate_width: int = setting(3072, "hidden width of the feed-forward part", paper="3072")
    max_positions: int = setting(512, "length of the position table", unit="tokens", paper="512")
    layer_norm_eps: float = setting(1e-12, "epsilon of every LayerNorm", paper="1e-12")
    dropout: float = setting(0.1, "dropout of hidden states and attention", paper="0.1")
    pooling: Literal["cls", "mean"] = setting(
        "cls", "source of the ITC feature: [CLS], or the mean over tokens as in sentence encoders", paper="cls"
    )
    frozen: bool = setting(False, "keep the text encoder's weights as loaded (not the multimodal encoder's)", paper="no")
    fusion_frozen: bool = setting(False, "keep the multimodal encoder's weights as loaded", paper="no")

    def __post_init__(self) -> None:
        positive("model.text", self, "vocab_size", "width", "num_heads", "intermediate_width", "max_positions")
        positive("model.text", self, "num_fusion_layers", "layer_norm_eps")
        not_negative("model.text", self, "num_layers")
        require(0.0 <= self.dropout < 1.0, "model.text.dropout", f"is {self.dropout}", "give 0 or more, below 1")
        _heads_divide("model.text", self.width, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Ways to compute the same mathematics; no field changes a result beyond rounding."""

    attention: Literal["auto", "sdpa", "plain"] = setting(
        "auto", "fused scaled-dot-product attention or plain matrix products; auto: by the table in models/attention.py"
    )
    layer_norm: Literal["auto", "torch", "apex"] = setting(
        "auto", "implementation of every LayerNorm; auto: NVIDIA apex's fused kernel on a GPU where it is installed"
    )
    share_cross_kv: bool = setting(True, "project an image's cross-attention keys and values once per layer for all passes")
    mlm_masked_only: bool = setting(True, "run the MLM head at masked positions only")
    itm_cls_only: bool = setting(True, "compute only [CLS] in the last multimodal layer where ITM needs nothing else")
    one_fusion_call: bool = setting(True, "run positive, negative and MLM passes through the multimodal encoder together")
    packed_text: bool = setting(False, "leave padding out of everything but attention; useful if captions differ in length")
    compile: bool = setting(False, "torch.compile of each block (minutes before the first step); ZeRO stage 3: unimodal ones")
    momentum_stream: bool = setting(False, "run the momentum model on a CUDA stream of its own (not yet run on a GPU)")
    wide_losses: Literal["plain", "sliced", "triton"] = setting(
        "plain",
        "plain: ITC and MLM from whole rows of logits; sliced: by slices of columns, less memory, products computed twice; "
        "triton: by slices in fused kernels (needs a GPU, not yet run on one)",
    )
    momentum_update: Literal["auto", "torch", "triton"] = setting(
        "auto",
        "update of value_residual, to the same bits; torch: several passes over memory; auto: one pass in compiled C on a CPU, "
        "else torch; triton: one pass in one kernel (needs a GPU, not yet run on one)",
    )
    cached_texts: int = setting(
        0, "embeddings of a frozen text encoder kept in memory, for corpora that repeat captions; 0: none", unit="texts"
    )
    checkpoint_visual: bool = setting(False, "recompute the visual encoder's activations in the backward pass")
    checkpoint_text: bool = setting(False, "recompute the text encoder's activations in the backward pass")
    checkpoint_multimodal: bool = setting(False, "recompute the multimodal encoder's activations in the backward pass")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the whole model."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = setting(256, "width of the normalised ITC features", paper="256")

    def __post_init__(self) -> None:
        positive("model", self, "embed_dim")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its LR schedule. Spans are counted in samples, so they stay valid when the batch size changes."""

    name: Literal["auto", "torch", "deepspeed_fused", "deepspeed_cpu", "apex"] = setting(
        "auto", "implementation of AdamW; auto: the fastest one installed for the device, which is logged"
    )
    learning_rate: float = setting(1e-4, "peak learning rate", paper="1e-4")
    initial_learning_rate: float = setting(1e-5, "learning rate at step 0", paper="1e-5")
    final_learning_rate: float = setting(1e-5, "learning rate at the end of the cosine", paper="1e-5")
    warmup_samples: int = setting(
        1_024_000, "length of the linear warm-up", unit="samples", paper="2000 iterations of 512 (released code)"
    )
    weight_decay: float = setting(
        0.02, "decay of matrices; none for biases, norms, temperature and position tables", paper="0.02"
    )
    beta1: float = setting(0.9, "first AdamW beta", paper="0.9")
    beta2: float = setting(0.999, "second AdamW beta", paper="0.999")
    eps: float = setting(1e-8, "AdamW epsilon", paper="1e-8")
    clip_norm: float = setting(0.0, "largest global gradient norm, clipped above it; 0: no clipping", paper="none")
    layer_decay: float = setting(
        1.0, "factor on the learning rate per layer below the top of an encoder; 1: one rate for all layers", paper="none"
    )

    def __post_init__(self) -> None:
        positive("optim", self, "learning_rate", "eps", "layer_decay")
        share("optim", self, "layer_decay")
        not_negative("optim", self, "initial_learning_rate", "final_learning_rate", "warmup_samples", "weight_decay", "clip_norm")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"optim.{name}", f"is {value}", "give 0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Sources of the initial weights. Training from scratch must be requested explicitly."""

    visual_encoder: str = setting("", "DeiT/timm ViT file, or `scratch`", paper="DeiT-B/16 on ImageNet-1k")
    text_encoder: str = setting(
        "", "BERT file or folder for text and multimodal encoder, or `scratch`", paper="bert-base-uncased"
    )
    checkpoint: str = setting("", "whole model: a run's checkpoint folder or a released ALBEF file; replaces the two above")
    std: float = setting(
        0.02,
        "standard deviation of random matrices and image positions; a narrow model from scratch learns sooner with about "
        "0.8 / the square root of its width",
        paper="0.02",
    )

    def __post_init__(self) -> None:
        positive("init", self, "std")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run: built by a recipe, changed by `section.field=value`, saved in the run's folder as config.json."""

    recipe: str = setting("", "name of the recipe this configuration started from")
    output: str = setting("runs/run", "folder of the run: logs, configuration, checkpoints")
    model: ModelConfig = field(default_factory=ModelConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    task: TaskConfig = field(default_factory=PretrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        require(
            self.data.max_tokens <= self.model.text.max_positions,
            "data.max_tokens",
            f"{self.data.max_tokens} is more than model.text.max_positions {self.model.text.max_positions}",
            "lower it",
        )
        require(
            self.compute.cached_texts == 0 or (self.model.text.frozen and self.engine.stage < 3),
            "compute.cached_texts",
            f"is {self.compute.cached_texts}, but only a frozen text encoder that is complete on each rank can be cached",
            "set it to 0, or model.text.frozen=true and engine.stage=2",
        )
        require(
            self.engine.momentum_storage != "dense" or self.engine.stage < 3 or self.engine.kind == "local",
            "engine.momentum_storage",
            "of dense needs complete parameters on each rank, which engine.stage=3 does not keep",
            "use engine.momentum_storage=value_residual, or fp32 for the exact form",
        )
        require(
            self.compute.momentum_update != "triton" or self.engine.momentum_storage == "value_residual",
            "compute.momentum_update",
            f"of triton does not update engine.momentum_storage={self.engine.momentum_storage}",
            "use compute.momentum_update=auto or engine.momentum_storage=value_residual",
        )
        require(
            not (self.compute.compile and self.compute.packed_text),
            "compute.compile",
            "needs constant sizes, and compute.packed_text gives every step another number of tokens",
            "switch one of them off",
        )
        require(
            self.compute.wide_losses == "plain" or getattr(self.task, "false_negatives", "off") != "mask",
            "compute.wide_losses",
            f"of {self.compute.wide_losses} cannot leave out what task.false_negatives=mask names",
            "use compute.wide_losses=plain or task.false_negatives=positive",
        )
        self.task.check_batch(self.train.micro_batch_size)

    @property
    def training_data(self) -> DataConfig:
        """The data section as training reads samples: limits of words and tokens are numbers that fit the position table."""
        return self.data.in_training(self.model.text.max_positions, self.task.compat)

    @property
    def evaluation_data(self) -> DataConfig:
        """The data section as evaluation and use of the model read samples: `max_words` and `max_tokens` are theirs."""
        return self.data.in_evaluation(self.model.text.max_positions, self.task.compat)

    @property
    def text_length(self) -> int:
        """Tokens of a long text in training, for plans and mock batches; without a limit 4 tokens for every 3 words."""
        return min(self.training_data.max_tokens, self.data.max_tokens or 4 * self.data.max_words // 3)

    def pretraining(self) -> PretrainConfig:
        """Returns the task's settings if it is pretraining. Raises `ConfigError` for another task."""
        if isinstance(self.task, PretrainConfig):
            return self.task
        raise ConfigError(f"task.kind={self.task.kind} is not supported here: use a pretraining recipe, such as pretrain_4m")

    def accumulation_steps(self, world_size: int) -> int:
        """Returns forward passes per optimizer step on each of `world_size` ranks. Raises `ConfigError` if they are not whole."""
        per_pass = self.train.micro_batch_size * world_size
        require(
            self.train.global_batch_size % per_pass == 0,
            "train.global_batch_size",
            f"{self.train.global_batch_size} is not a multiple of train.micro_batch_size {self.train.micro_batch_size}"
            f" x {world_size} ranks",
            f"use {max(1, round(self.train.global_batch_size / per_pass)) * per_pass}, or change train.micro_batch_size",
        )
        return self.train.global_batch_size // per_pass
