"""Evaluates a task on one split of its annotations, as `tasks/registry.py` defines for its kind.

The trainer uses it for the validation split, `albef-ds evaluate` for every split. All ranks call it together.
"""

from __future__ import annotations

import torch

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.image_files import ImageFiles
from albef_ds.data.annotations.read import check_labels, read_records
from albef_ds.data.annotations.records import StatementRecord
from albef_ds.data.annotations.retrieval import Split
from albef_ds.metrics.retrieval import K_TEST
from albef_ds.metrics.scores import EvaluationOptions, Scores
from albef_ds.tasks.base import Task
from albef_ds.tasks.evaluators import Evaluation
from albef_ds.tasks.registry import evaluation_of


def check_validation(config: RunConfig) -> None:
    """Reads what `evaluate_validation` will read, except for the pixels, so that faults are reported before the training.

    Raises:
        UserError: files or images are missing, damaged or of another format, or a text, label or answer cannot be used.
    """
    data = config.data
    if data.eval_annotations:
        evaluation = _evaluation(config)
        records = read_records(evaluation.read, config, data.eval_annotations, "val")
        ImageFiles(data).require(records)
        used = records[: config.train.eval_samples or None]
        evaluation.make_set(used, config.evaluation_data, config.model.vision.image_size)
        if isinstance(used[0], StatementRecord):
            check_labels(used, config)
        evaluation.check(config)
    elif has_corpus(config):
        evaluation = _evaluation(config)
        assert evaluation.corpus_set is not None
        evaluation.corpus_set(config)


def evaluate_validation(task: Task, config: RunConfig, device: torch.device) -> dict[str, float]:
    """Metrics on `data.eval_annotations`, else on `data.eval_shards`; empty if neither is evaluated."""
    if config.data.eval_annotations:
        return evaluate(task, config, device, config.data.eval_annotations, "val", limit=config.train.eval_samples).metrics
    if has_corpus(config):
        evaluation = _evaluation(config)
        assert evaluation.corpus_set is not None
        return evaluation.evaluate(task, evaluation.corpus_set(config), config, device, EvaluationOptions(k_test=K_TEST)).metrics
    return {}


def has_corpus(config: RunConfig) -> bool:
    """True if the task is evaluated on a corpus and `data.eval_shards` names one."""
    evaluation = evaluation_of(config)
    return bool(config.data.eval_shards) and evaluation is not None and evaluation.corpus_set is not None


def evaluate(
    task: Task,
    config: RunConfig,
    device: torch.device,
    annotations: str,
    split: Split = "test",
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008 (frozen)
    *,
    limit: int = 0,
) -> Scores:
    """Evaluates `task` on the files `annotations`.

    Args:
        task: on `device`, owned by an engine or not.
        config: the run's configuration.
        device: device to compute on.
        annotations: comma-separated files, as in `data.eval_annotations`.
        split: part of a file that holds several (Karpathy's).
        options: see `EvaluationOptions`.
        limit: number of records to take from the start; 0 takes all.

    Raises:
        UserError: a file is missing or of another format, images are missing, or the task has no evaluation.
    """
    evaluation = _evaluation(config)
    records = read_records(evaluation.read, config, annotations, split)[: limit or None]
    data = evaluation.make_set(records, config.evaluation_data, config.model.vision.image_size)
    return evaluation.evaluate(task, data, config, device, options)


def _evaluation(config: RunConfig) -> Evaluation:
    evaluation = evaluation_of(config)
    if evaluation is None:
        raise ConfigError(f"task.kind={config.task.kind} has no evaluation: leave data.eval_annotations empty")
    return evaluation
