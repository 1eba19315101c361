"""The released code's position tables for another image size, to the bit.

Source: `interpolate_pos_embed` in models/vit.py of the released code (b9727e4), which pretraining applies to DeiT's file and
fine-tuning to the pretrained file.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.checkpoint.initial.between_tasks import resize_position_embedding
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor


def _table(side: int) -> Tensor:
    return torch.randn(1, side**2 + 1, 24, generator=torch.Generator().manual_seed(side))


def _released(table: Tensor, new: int) -> Tensor:
    """`interpolate_pos_embed` as written there: rows of the grid by bicubic interpolation, the class token's row kept."""
    old = int((table.shape[1] - 1) ** 0.5)
    tokens = table[:, 1:].reshape(-1, old, old, table.shape[-1]).permute(0, 3, 1, 2)
    tokens = F.interpolate(tokens, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], tokens.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


@pytest.mark.parametrize(("old", "new"), [(14, 16), (16, 24), (24, 16), (16, 7)])
def test_a_table_is_resized_as_in_the_released_code_to_the_bit(old: int, new: int) -> None:
    table = _table(old)
    resized = resize_position_embedding(LazyTensor.of(table), new**2 + 1, torch.float32).read()
    assert torch.equal(resized, _released(table, new))


def test_antialiasing_would_be_several_percent_off() -> None:
    """The departure that this guards against: timm's default differs by 4 to 8% from 16 x 16 to 24 x 24 patches."""
    table = _table(16)
    grid = table[:, 1:].reshape(1, 16, 16, 24).permute(0, 3, 1, 2)
    other = F.interpolate(grid, size=(24, 24), mode="bicubic", align_corners=False, antialias=True)
    released = _released(table, 24)[:, 1:]
    assert 0.03 < float((other.permute(0, 2, 3, 1).flatten(1, 2) - released).norm() / released.norm()) < 0.2


def test_a_table_in_half_precision_is_resized_in_fp32() -> None:
    table = _table(16).half()
    kept = resize_position_embedding(LazyTensor.of(table), 24**2 + 1).read()
    assert kept.dtype == torch.float16 and torch.equal(kept, _released(table.float(), 24).half())
