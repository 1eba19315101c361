"""The batch types through which data and tasks meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from albef_ds.data.images.normalise import normalise, normalise_colours
from albef_ds.data.images.view import ViewPlan


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples with pictures and one text each: what every task's batch has.

    Everything random about a sample (crop, MLM mask, the noise behind its hard negatives) is a function of the
    seed and its `position`, never of the rank or worker that handled it.
    """

    images: Tensor
    """float32 (B, 3, H, W), normalised; (B, I, 3, H, W) where a sample has I pictures. From a loader, before `to`: uint8
    (B, H, W, 4) or (B, I, H, W, 4), the fourth byte meaningless; or a buffer that `plan` describes."""
    token_ids: Tensor
    """int64 (B, L), [CLS] first, padded with 0."""
    token_mask: Tensor
    """bool (B, L), true at tokens, false at padding."""
    positions: Tensor
    """int64 (B,): place of the sample in the run's whole sequence, epochs included; unique in a run."""
    keys: tuple[str, ...] = ()
    """Names of the samples, for error reports."""
    plan: ViewPlan | None = None
    """What `to` makes of `images` where the loader left the views to the model's device."""

    def __len__(self) -> int:
        return self.positions.shape[0]

    def to(self, device: torch.device) -> Self:
        """The same batch with every tensor on `device`, views made and grey levels normalised there."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        if moved.plan is not None:
            return replace(moved, images=normalise_colours(moved.plan.make(moved.images)), plan=None)
        return moved if moved.images.is_floating_point() else replace(moved, images=normalise(moved.images))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory (called by the loader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: slice) -> Self:
        """The samples in `rows`."""
        images, plan = self._views(rows)
        part = self._map(lambda tensor: tensor if tensor is self.images else tensor[rows])
        return replace(part, images=images, plan=plan, keys=self.keys[rows])

    def _views(self, rows: slice) -> tuple[Tensor, ViewPlan | None]:
        """`images` and `plan` of the samples in `rows`."""
        return (self.images[rows], None) if self.plan is None else self.plan.rows(rows, self.images)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changes: dict[str, Any] = {
            f.name: function(value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ImageTextBatch(Batch):
    """B image-text pairs, as pretraining, text assignment, retrieval and grounding take them."""

    masked_ids: Tensor
    """int64 (B, L): `token_ids` with the MLM corruption applied."""
    mlm_labels: Tensor
    """int64 (B, L): the original id where MLM predicts, -100 elsewhere."""
    image_ids: Tensor
    """int64 (B,): equal for the same picture."""
    caption_ids: Tensor
    """int64 (B,): equal for the same caption text."""

    def padded_to(self, length: int) -> Self:
        """The same texts padded to `length` tokens, at least as many as they have."""
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
class ClassificationBatch(Batch):
    """B samples of one class each; `images` float32 (B, I, 3, H, W): I = 1 for entailment, 2 for NLVR2."""

    labels: Tensor
    """int64 (B,): the class, from 0."""


@dataclass(frozen=True, kw_only=True)
class VqaBatch(Batch):
    """B questions about one image each, `token_ids` being the question; A answers in all, those of a question in a row."""

    answer_ids: Tensor
    """int64 (A, La), [CLS] first, [SEP] last, padded with 0."""
    answer_mask: Tensor
    """bool (A, La), true at tokens."""
    answer_weights: Tensor
    """float32 (A,): share of the annotators that gave the answer."""
    answer_counts: Tensor
    """int64 (B,): answers of each question; their sum is A."""

    def __getitem__(self, rows: slice) -> Self:
        """The questions in `rows` with their answers."""
        ends = [0, *self.answer_counts.cumsum(0).tolist()]
        chosen = torch.tensor(
            [answer for row in range(len(self))[rows] for answer in range(ends[row], ends[row + 1])], dtype=torch.int64
        )
        chosen = chosen.to(self.answer_ids.device)
        per_answer = ("answer_ids", "answer_mask", "answer_weights")
        tensors: dict[str, Tensor] = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        parts: dict[str, Any] = {name: tensor[chosen] if name in per_answer else tensor[rows] for name, tensor in tensors.items()}
        parts["images"], plan = self._views(rows)
        return replace(self, keys=self.keys[rows], plan=plan, **parts)
