"""The batch types through which data and tasks meet."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self


@dataclass(frozen=True)
class ImageTextBatch:
    """B image-text pairs, as pretraining and retrieval take them.

    Everything random about a sample (crop, MLM mask, the noise behind its hard negatives) is a function of the
    seed and its `position`, never of the rank or worker that handled it.
    """

    images: Tensor
    """float32 (B, 3, H, W), normalised."""
    token_ids: Tensor
    """int64 (B, L), [CLS] first, padded with 0."""
    token_mask: Tensor
    """bool (B, L), true at tokens, false at padding."""
    masked_ids: Tensor
    """int64 (B, L): `token_ids` with the MLM corruption applied."""
    mlm_labels: Tensor
    """int64 (B, L): the original id where MLM predicts, -100 elsewhere."""
    image_ids: Tensor
    """int64 (B,): equal for the same picture."""
    caption_ids: Tensor
    """int64 (B,): equal for the same caption text."""
    positions: Tensor
    """int64 (B,): place of the sample in the run's whole sequence, epochs included; unique in a run."""
    keys: tuple[str, ...] = ()
    """Names of the samples, for error reports."""

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> Self:
        """The same batch with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory (called by the loader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: slice) -> Self:
        """The samples in `rows`."""
        part = self._map(lambda tensor: tensor[rows])
        return replace(part, keys=self.keys[rows])

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

    def _map(self, function) -> Self:  # type: ignore[no-untyped-def]
        changes = {f.name: function(value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **changes)
