"""Accuracy on statements about images: visual entailment, and NLVR2 with its consistency (paper section 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.read import check_labels
from albef_ds.data.annotations.records import StatementRecord
from albef_ds.data.batch import ClassificationBatch
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.metrics.over_ranks import Modules, eval_mode, map_rows
from albef_ds.metrics.scores import EvaluationOptions, Scores


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Right predictions in per cent."""
    return 100.0 * sum(p == label for p, label in zip(predictions, labels, strict=True)) / len(labels)


def consistency(predictions: Sequence[int], labels: Sequence[int], groups: Sequence[str]) -> float:
    """Groups with only right predictions, in per cent: NLVR2's metric over the image pairs that share a sentence."""
    right: dict[str, bool] = defaultdict(lambda: True)
    for prediction, label, group in zip(predictions, labels, groups, strict=True):
        right[group] &= prediction == label
    return 100.0 * sum(right.values()) / len(right)


class Classifier(Modules, Protocol):
    """A module that scores classes; `ClassificationTask` is one."""

    def logits(self, batch: ClassificationBatch, *, momentum: bool = False) -> Tensor:
        """Class logits (B, num_classes) of the student or its momentum copy."""


@torch.no_grad()
def evaluate_classification(
    task: Classifier, data: TextImageSet[StatementRecord], config: RunConfig, device: torch.device, options: EvaluationOptions
) -> Scores:
    """Accuracy, `consistency` if there are groups, and the share of the most frequent class, in per cent; all predicted classes.

    Raises:
        ConfigError: a label for which the task has no class.
    """
    check_labels(data.records, config)

    def compute(rows: Tensor) -> tuple[Tensor, ...]:
        batch = data.batch(rows.tolist()).to(device)
        assert isinstance(batch, ClassificationBatch)
        return (task.logits(batch, momentum=options.momentum).float(),)

    with eval_mode(task):
        [logits] = map_rows(len(data), config.train.micro_batch_size, compute, device, partial(options.progress, "statements"))
    predictions: list[int] = logits.argmax(dim=1).tolist()
    labels, groups = [record.label for record in data.records], [record.group for record in data.records]
    metrics = {"classification/accuracy": accuracy(predictions, labels)}
    if any(groups):
        metrics["classification/consistency"] = consistency(predictions, labels, groups)
    metrics["classification/most_frequent_class"] = 100.0 * max(labels.count(label) for label in set(labels)) / len(labels)
    metrics["classification/num_samples"] = float(len(labels))
    return Scores(metrics, predictions)
