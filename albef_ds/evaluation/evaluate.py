"""Scores a task on one split of its annotations: which evaluator, which data, which predictions are worth keeping.

Used by the trainer for the validation split and by `albef-ds evaluate` for every other. All ranks call it together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.common.progress import Progress
from albef_ds.config.schema import RunConfig, VqaConfig
from albef_ds.config.tasks import ContrastiveConfig
from albef_ds.data.annotations.grounding import read_expressions
from albef_ds.data.annotations.json_files import split_paths
from albef_ds.data.annotations.pictures import Pictures
from albef_ds.data.annotations.read import check_labels, read_records
from albef_ds.data.annotations.records import CaptionRecord, ExpressionRecord, QuestionRecord, StatementRecord
from albef_ds.data.annotations.retrieval import Split
from albef_ds.data.annotations.vqa import read_answer_list
from albef_ds.data.evaluation_sets.annotated import PairSet, TextImageSet
from albef_ds.data.shards.reader import ShardReader
from albef_ds.evaluation.classification import ClassificationEvaluator
from albef_ds.evaluation.grounding import GroundingEvaluator
from albef_ds.evaluation.main_metric import HEADLINE, evaluated_as, headline_name
from albef_ds.evaluation.retrieval import K_TEST, evaluate_retrieval, student_of
from albef_ds.evaluation.vqa import VqaEvaluator
from albef_ds.tasks.base import Task
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


def headline(config: RunConfig, metrics: dict[str, float]) -> tuple[str, float]:
    """Name and value of the metric that chooses a checkpoint.

    Raises:
        DataError: the split has none, such as questions without answers.
    """
    found = headline_name(config, metrics)
    if found is None:
        name = HEADLINE[evaluated_as(config)]
        raise DataError(f"data.eval_annotations gives no {name}, so no checkpoint can be chosen: give files with answers")
    return found, metrics[found]


def check_validation(config: RunConfig) -> None:
    """Open what `evaluate_validation` will read, so that a wrong path is met before the training and not after it.

    Raises:
        UserError: files or pictures that are missing, damaged or of another form.
    """
    data = config.data
    if data.eval_annotations and evaluated_as(config) == "grounding":
        Pictures(data).require(expressions_of(config, data.eval_annotations))
    elif data.eval_annotations:
        Pictures(data).require(read_records(config, data.eval_annotations, "val"))
        if isinstance(config.task, VqaConfig):
            _answers(config)
    elif data.eval_shards and isinstance(config.task, ContrastiveConfig):
        ShardReader(Path(data.eval_shards)).close()


def evaluate_validation(task: Task, config: RunConfig, device: torch.device) -> dict[str, float]:
    """What the trainer reports: `data.eval_annotations`, or retrieval on `data.eval_shards`; empty if neither is set."""
    if config.data.eval_annotations:
        return evaluate(task, config, device, config.data.eval_annotations, "val", limit=config.train.eval_samples).metrics
    if config.data.eval_shards and isinstance(task, ContrastiveTask):
        return evaluate_retrieval(task, config, device)
    return {}


def evaluate(
    task: Task,
    config: RunConfig,
    device: torch.device,
    annotations: str,
    split: Split = "test",
    *,
    momentum: bool = False,
    limit: int = 0,
    generate: bool = False,
    layer: int | None = None,
    k_test: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score `task` on the files `annotations`.

    Args:
        task: on `device`, as an engine holds it or plain.
        config: the run's configuration.
        device: where to compute.
        annotations: comma-separated files, as `data.eval_annotations`.
        split: which part of a file that holds several (Karpathy's).
        momentum: score the momentum copy.
        limit: take the first so many records; 0 takes all.
        generate: VQA writes answers freely instead of ranking `data.answer_list`.
        layer: multimodal layer of Grad-CAM; None: the middle one, as in the paper.
        k_test: candidates per query that retrieval re-ranks; None: the task's.
        progress: told about every batch.

    Raises:
        UserError: a file that is missing or of another form, or missing pictures.
    """
    side, batch = config.model.vision.image_size, config.train.micro_batch_size
    if evaluated_as(config) == "grounding":
        expressions = expressions_of(config, annotations)[: limit or None]
        return _ground(task, config, device, TextImageSet(expressions, config.data, side), momentum, layer, progress)
    records = read_records(config, annotations, split)[: limit or None]
    if isinstance(task, ClassificationTask):
        check_labels(records, task.config)
        statements = TextImageSet(cast(list[StatementRecord], records), config.data, side)
        judge = ClassificationEvaluator(task, statements, device, batch_size=batch, momentum=momentum, progress=progress)
        return Scores(dict(judge.run()), judge.predictions)
    if isinstance(task, VqaTask):
        answers = [] if generate else _answers(config)
        questions = TextImageSet(cast(list[QuestionRecord], records), config.data, side)
        settings: dict[str, Any] = {"k_test": task.config.k_test, "batch_size": batch, "momentum": momentum}
        asker = VqaEvaluator(task, questions, answers, config.data, device, progress=progress, **settings)
        metrics = dict(asker.run())
        return Scores(metrics, asker.predictions, {"answers": "generated"} if generate else {"k_test": task.config.k_test})
    assert isinstance(task, ContrastiveTask)
    own: int = getattr(config.task, "k_test", K_TEST)
    reranked = k_test or own
    pairs = PairSet(cast(list[CaptionRecord], records), config.data, side)
    measured = evaluate_retrieval(task, config, device, pairs, k_test=reranked, momentum=momentum, progress=progress)
    return Scores(measured, protocol={"k_test": reranked})


def _answers(config: RunConfig) -> list[str]:
    if not config.data.answer_list:
        raise ConfigError("data.answer_list is empty: give the JSON list of answers to rank, `albef-ds answers` makes one")
    return read_answer_list(Path(config.data.answer_list))


def expressions_of(config: RunConfig, annotations: str) -> list[ExpressionRecord]:
    """The referring expressions in the files `annotations`. Raises `ConfigError` where boxes or files are missing."""
    if not config.data.instances:
        raise ConfigError("data.instances is empty: give COCO's instances JSON, whose boxes the expressions in data.refs mean")
    detections = Path(config.data.detections) if config.data.detections else None
    found: list[ExpressionRecord] = []
    for path in split_paths(annotations):
        found += read_expressions(path, Path(config.data.refs), Path(config.data.instances), detections)
    return found


def _ground(
    task: Task,
    config: RunConfig,
    device: torch.device,
    data: TextImageSet[ExpressionRecord],
    momentum: bool,
    layer: int | None,
    progress: Progress | None,
) -> Scores:
    assert isinstance(task, ContrastiveTask)
    if config.engine.kind == "zero" and config.engine.stage == 3 and any(p.numel() == 0 for p in task.parameters()):
        raise ConfigError("grounding is evaluated with whole parameters: use engine.stage=2, or `albef-ds evaluate` afterwards")
    evaluator = GroundingEvaluator(
        student_of(task, momentum),
        task.itm_head,
        data,
        device,
        batch_size=config.train.micro_batch_size,
        layer=layer,
        progress=progress,
    )
    return Scores(dict(evaluator.run()), [vars(found) for found in evaluator.found], {"layer": evaluator.layer})
