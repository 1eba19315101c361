"""The batch types, which data loaders produce and tasks consume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeAlias, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self, TypeVar

from albef_ds.data.images.view import RawImages

Images_co = TypeVar("Images_co", bound="Tensor | RawImages", default=Tensor, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Images_co]):
    """B samples with images and one text each: the base of every task's batch.

    A loader delivers a `RawBatch`; `to` makes the `Batch` that a model takes. Everything random about a sample (crop, MLM mask,
    the noise for its hard negatives) is a function of the seed and its `position`, never of the rank or worker.
    """

    images: Images_co
    """float32 (B, 3, H, W), normalised; (B, I, 3, H, W) if a sample has I images. From a loader: `RawImages`."""
    token_ids: Tensor
    """int64 (B, L), [CLS] first, padded with 0."""
    token_mask: Tensor
    """bool (B, L), true at tokens, false at padding."""
    positions: Tensor
    """int64 (B,): position of the sample in the run's sequence over all epochs; unique in a run."""
    keys: tuple[str, ...] = ()
    """Names of the samples, for error reports."""

    def __len__(self) -> int:
        return self.positions.shape[0]

    @overload
    def to(self: RawBatch, device: torch.device) -> Batch: ...
    @overload
    def to(self, device: torch.device) -> Self: ...
    def to(self, device: torch.device) -> Any:
        """Returns the batch with every tensor on `device`, where raw images become the normalised tensor."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Returns the batch in page-locked memory (called by the loader)."""
        return self._map(lambda part: part.pin_memory())

    def __getitem__(self, rows: slice) -> Self:
        """Returns the samples in `rows`."""
        return replace(self._map(lambda part: part[rows]), keys=self.keys[rows])

    def _map(self, function: Callable[[Any], Any]) -> Self:
        """Returns the batch with `function` applied to every tensor and to raw images."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(part) for name, part in parts.items() if isinstance(part, Tensor | RawImages)})


RawBatch: TypeAlias = Batch[RawImages]
"""A batch as a loader delivers it."""


@dataclass(frozen=True, kw_only=True)
class ImageTextBatch(Batch[Images_co]):
    """B image-text pairs, for pretraining, text assignment, retrieval and grounding."""

    masked_ids: Tensor
    """int64 (B, L): `token_ids` with the MLM corruption applied."""
    mlm_labels: Tensor
    """int64 (B, L): the original id at positions that MLM predicts, -100 elsewhere."""
    image_ids: Tensor
    """int64 (B,): equal for the same image."""
    caption_ids: Tensor
    """int64 (B,): equal for the same caption text."""

    def padded_to(self, length: int) -> Self:
        """Returns the batch with texts padded to `length` tokens, at least as many as they have."""
        extra = (0, length - self.token_ids.shape[1])
        assert extra[1] >= 0, "padding cannot shorten a text"
        return replace(
            self,
            token_ids=F.pad(self.token_ids, extra),
            token_mask=F.pad(self.token_mask, extra),
            masked_ids=F.pad(self.masked_ids, extra),
            mlm_labels=F.pad(self.mlm_labels, extra, value=-100),
        )


@dataclass(frozen=True, kw_only=True)
class ClassificationBatch(Batch[Images_co]):
    """B samples of one class each; `images` float32 (B, I, 3, H, W): I = 1 for entailment, 2 for NLVR2."""

    labels: Tensor
    """int64 (B,): the class, from 0."""


@dataclass(frozen=True, kw_only=True)
class VqaBatch(Batch[Images_co]):
    """B questions (`token_ids`) about one image each, with A answers in total; a question's answers are consecutive."""

    answer_ids: Tensor
    """int64 (A, La), [CLS] first, [SEP] last, padded with 0."""
    answer_mask: Tensor
    """bool (A, La), true at tokens."""
    answer_weights: Tensor
    """float32 (A,): share of the annotators that gave the answer."""
    answer_counts: Tensor
    """int64 (B,): number of answers of each question; the sum is A."""

    def __getitem__(self, rows: slice) -> Self:
        """Returns the questions in `rows` with their answers."""
        ends = [0, *self.answer_counts.cumsum(0).tolist()]
        numbers = [answer for row in range(len(self))[rows] for answer in range(ends[row], ends[row + 1])]
        chosen = torch.tensor(numbers, dtype=torch.int64).to(self.answer_ids.device)
        answers = {name: getattr(self, name)[chosen] for name in ("answer_ids", "answer_mask", "answer_weights")}
        return replace(super().__getitem__(rows), **answers)
