"""Accuracy of statements about pictures: visual entailment, and NLVR2 with its consistency (paper section 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from albef_ds.common.progress import Progress, silent
from albef_ds.data.annotations.records import StatementRecord
from albef_ds.data.batch import ClassificationBatch
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.metrics.over_ranks import Modules, deal, eval_mode


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Per cent of right predictions."""
    return 100.0 * sum(p == label for p, label in zip(predictions, labels, strict=True)) / len(labels)


def consistency(predictions: Sequence[int], labels: Sequence[int], groups: Sequence[str]) -> float:
    """Per cent of groups of which every prediction is right: NLVR2's measure over the pairs that share a sentence."""
    right: dict[str, bool] = defaultdict(lambda: True)
    for prediction, label, group in zip(predictions, labels, groups, strict=True):
        right[group] &= prediction == label
    return 100.0 * sum(right.values()) / len(right)


class Classifier(Modules, Protocol):
    """A module that scores classes; `ClassificationTask` is one."""

    def logits(self, batch: ClassificationBatch, *, momentum: bool = False) -> Tensor:
        """(B, num_classes), by the student or its momentum copy."""


class ClassificationEvaluator:
    """Predicts the class of every statement; all ranks construct and run it together.

    Args:
        task: on `device`, as an engine holds it.
        data: statements, the same on every rank.
        device: where to compute.
        batch_size: statements per forward pass.
        momentum: predict with the momentum copy.
        prefix: first part of the metrics' names.
        progress: told about every batch.
    """

    def __init__(
        self,
        task: Classifier,
        data: TextImageSet[StatementRecord],
        device: torch.device,
        *,
        batch_size: int = 64,
        momentum: bool = False,
        prefix: str = "classification",
        progress: Progress | None = None,
    ) -> None:
        self.task, self.data, self.device = task, data, device
        self.batch_size, self.momentum, self.prefix = batch_size, momentum, prefix
        self._progress = progress or silent
        self.predictions: list[int] = []
        """Class of each statement, after `run`."""

    @torch.no_grad()
    def run(self) -> Iterator[tuple[str, float]]:
        """(name, value): `accuracy`, `consistency` where there are groups, the most frequent class, the number of samples."""

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            batch = self.data.batch(rows.tolist()).to(self.device)
            assert isinstance(batch, ClassificationBatch)
            return (self.task.logits(batch, momentum=self.momentum).float(),)

        with eval_mode(self.task):
            [logits] = deal(
                len(self.data),
                self.batch_size,
                compute,
                self.device,
                lambda done, total: self._progress("statements", done, total),
            )
        self.predictions = logits.argmax(dim=1).tolist()
        records = self.data.records
        labels, groups = [record.label for record in records], [record.group for record in records]
        yield f"{self.prefix}/accuracy", accuracy(self.predictions, labels)
        if any(groups):
            yield f"{self.prefix}/consistency", consistency(self.predictions, labels, groups)
        yield f"{self.prefix}/most_frequent_class", 100.0 * max(labels.count(label) for label in set(labels)) / len(labels)
        yield f"{self.prefix}/num_samples", float(len(labels))
