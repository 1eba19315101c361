"""How each task is evaluated: which records are read, which set they make, which measure runs over it, what is kept.

The measures themselves are in `metrics/`. Which files are read and which checkpoint is scored is decided in `evaluation/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from albef_ds.common.errors import ConfigError
from albef_ds.common.progress import Progress
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.read import (
    Reader,
    check_labels,
    read_boxed_expressions,
    read_pairs,
    read_questions,
    read_statements,
)
from albef_ds.data.annotations.records import CaptionRecord, ExpressionRecord, QuestionRecord, Record, StatementRecord
from albef_ds.data.annotations.vqa import read_answer_list
from albef_ds.data.evaluation_sets.annotated import PairSet, TextImageSet
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.metrics.classification import ClassificationEvaluator
from albef_ds.metrics.grounding import GroundingEvaluator
from albef_ds.metrics.retrieval import K_TEST, RetrievalData, RetrievalEvaluator
from albef_ds.metrics.vqa import VqaEvaluator
from albef_ds.metrics.vqa_submission import write_submission
from albef_ds.models.albef import ALBEF
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.contrastive import ContrastiveTask
from albef_ds.tasks.vqa import VqaTask


@dataclass(frozen=True)
class Scores:
    """One split's metrics by name, and predictions where a server or a reader wants them (question id to answer, or a list)."""

    metrics: dict[str, float]
    predictions: Any = None
    protocol: dict[str, Any] = field(default_factory=dict)
    """What decides the numbers besides the weights: k_test, layer, answers."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What a caller may choose; each task looks at those that concern it."""

    momentum: bool = False
    """Score the momentum copy."""
    generate: bool = False
    """VQA writes answers freely instead of ranking `data.answer_list`."""
    layer: int | None = None
    """Multimodal layer of Grad-CAM; None: the middle one, as in the paper."""
    k_test: int | None = None
    """Candidates per query that retrieval re-ranks; None: the task's."""
    progress: Progress | None = None
    """Told about every batch."""


def _ready(config: RunConfig) -> object:
    """Nothing but records and images is needed."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One way to evaluate a task. All ranks call `evaluate` together; every rank gets the same numbers."""

    read: Reader
    make_set: Callable[[Sequence[Any], RunConfig], Any]
    """Records to the set that `evaluate` takes. Raises `UserError` for images or texts that cannot be used."""
    evaluate: Callable[[Any, Any, RunConfig, torch.device, EvaluationOptions], Scores]
    """Called with the task (on the device, as an engine holds it or plain), the set, the configuration, the device, options."""
    corpus_set: Callable[[RunConfig], Any] | None = None
    """The set in the corpus folder `data.eval_shards`, for tasks that a corpus can evaluate."""
    check: Callable[[RunConfig], object] = _ready
    """Raises `UserError` where a file that `evaluate` needs besides records and images is missing."""
    write_predictions: Callable[[Path, Any], None] | None = None
    """Writes `Scores.predictions` to the new file as the benchmark's server takes them."""


def evaluate_retrieval(
    task: ContrastiveTask, data: RetrievalData, config: RunConfig, device: torch.device, options: EvaluationOptions
) -> Scores:
    """Recall in both directions. A momentum copy is scored with the student's ITM head, for it has none."""
    own: int = getattr(config.task, "k_test", K_TEST)
    k_test = options.k_test or own
    # ZeRO-3 may hold an empty placeholder between forward passes; the initial value then serves.
    temperature = task.temperature.detach()
    evaluator = RetrievalEvaluator(
        _model_of(task, options.momentum),
        task.itm_head,
        data,
        device,
        k_test,
        batch_size=config.train.micro_batch_size,
        temperature=float(temperature) if temperature.numel() else task.config.temperature,
        prefix="retrieval_momentum" if options.momentum else "retrieval",
        progress=options.progress,
    )
    return Scores(dict(evaluator.run()), protocol={"k_test": k_test})


def evaluate_grounding(
    task: ContrastiveTask,
    data: TextImageSet[ExpressionRecord],
    config: RunConfig,
    device: torch.device,
    options: EvaluationOptions,
) -> Scores:
    """Accuracy of the boxes that Grad-CAM finds. Raises `ConfigError` for weights in ZeRO-3's parts."""
    if config.engine.kind == "zero" and config.engine.stage == 3 and any(p.numel() == 0 for p in task.parameters()):
        raise ConfigError("grounding is evaluated with whole parameters: use engine.stage=2, or `albef-ds evaluate` afterwards")
    evaluator = GroundingEvaluator(
        _model_of(task, options.momentum),
        task.itm_head,
        data,
        device,
        batch_size=config.train.micro_batch_size,
        layer=options.layer,
        progress=options.progress,
    )
    return Scores(dict(evaluator.run()), [vars(found) for found in evaluator.found], {"layer": evaluator.layer})


def evaluate_classification(
    task: ClassificationTask,
    data: TextImageSet[StatementRecord],
    config: RunConfig,
    device: torch.device,
    options: EvaluationOptions,
) -> Scores:
    """Accuracy, and consistency where statements come in groups."""
    size = config.train.micro_batch_size
    evaluator = ClassificationEvaluator(task, data, device, batch_size=size, momentum=options.momentum, progress=options.progress)
    return Scores(dict(evaluator.run()), evaluator.predictions)


def evaluate_vqa(
    task: VqaTask, data: TextImageSet[QuestionRecord], config: RunConfig, device: torch.device, options: EvaluationOptions
) -> Scores:
    """The official accuracy, of ranked or freely written answers."""
    k_test = task.config.k_test
    evaluator = VqaEvaluator(
        task,
        data,
        [] if options.generate else _answer_list(config),
        config.data,
        device,
        k_test=k_test,
        batch_size=config.train.micro_batch_size,
        momentum=options.momentum,
        progress=options.progress,
    )
    protocol = {"answers": "generated"} if options.generate else {"k_test": k_test}
    return Scores(dict(evaluator.run()), evaluator.predictions, protocol)


def _model_of(task: ContrastiveTask, momentum: bool) -> ALBEF:
    albef = task.momentum.modules["albef"] if momentum else task.model
    assert isinstance(albef, ALBEF)
    return albef


def _answer_list(config: RunConfig) -> list[str]:
    if not config.data.answer_list:
        raise ConfigError("data.answer_list is empty: give the JSON list of answers to rank, `albef-ds answers` makes one")
    return read_answer_list(Path(config.data.answer_list))


def _pair_set(records: Sequence[CaptionRecord], config: RunConfig) -> PairSet:
    return PairSet(records, config.data, config.model.vision.image_size)


def corpus_set(config: RunConfig) -> RetrievalSet:
    """The first `train.eval_samples` of `data.eval_shards`."""
    folder, size = Path(config.data.eval_shards), config.model.vision.image_size
    return RetrievalSet(folder, config.data, size, limit=config.train.eval_samples)


def _text_image_set(records: Sequence[Any], config: RunConfig) -> TextImageSet[Any]:
    return TextImageSet(records, config.data, config.model.vision.image_size)


def _statement_set(records: Sequence[StatementRecord], config: RunConfig) -> TextImageSet[StatementRecord]:
    check_labels(cast(Sequence[Record], records), config)
    return _text_image_set(records, config)


RETRIEVAL = Evaluation(read=read_pairs, make_set=_pair_set, evaluate=evaluate_retrieval, corpus_set=corpus_set)
GROUNDING = Evaluation(read=read_boxed_expressions, make_set=_text_image_set, evaluate=evaluate_grounding)
CLASSIFICATION = Evaluation(read=read_statements, make_set=_statement_set, evaluate=evaluate_classification)
VQA = Evaluation(
    read=read_questions, make_set=_text_image_set, evaluate=evaluate_vqa, check=_answer_list, write_predictions=write_submission
)
