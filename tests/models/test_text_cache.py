"""Cached text embeddings equal the encoder's, and the number of rows is bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ComputeConfig
from albef_ds.models.albef import ALBEF
from albef_ds.models.text_cache import TextCache
from tests.engine.zero.common import tiny_config


def _texts(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (6,), generator=generator)
    mask = torch.arange(8) < lengths[:, None]
    return torch.randint(1, 100, (6, 8), generator=generator) * mask, mask


def test_embeddings_are_the_encoders_and_repeated_texts_are_not_encoded_again() -> None:
    config = tiny_config()
    albef = ALBEF(replace(config.model, text=replace(config.model.text, frozen=True, dropout=0.0)), config.compute).eval()
    cache = TextCache(albef.encode_text, max_rows=100)
    for _ in range(2):
        for seed in (0, 1):
            ids, mask = _texts(seed)
            assert torch.allclose(cache(ids, mask)[mask], albef.encode_text(ids, mask)[mask], atol=1e-6)
    assert (cache.misses, cache.hits) == (12, 12)


def test_the_rows_used_longest_ago_go_first() -> None:
    calls: list[int] = []

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        calls.append(len(ids))
        return ids[..., None].float()

    cache = TextCache(encode, max_rows=2)
    a, b, c = (torch.tensor([[n, n]]) for n in (1, 2, 3))
    mask = torch.ones(1, 2, dtype=torch.bool)
    for text in (a, b, a, c, a, b):
        assert torch.equal(cache(text, mask)[..., 0], text.float())
    assert len(calls) == 4  # a, b, c, and b again, which c had pushed out


def test_more_texts_than_rows_in_one_batch_are_all_returned() -> None:
    cache = TextCache(lambda ids, mask: ids[..., None].float(), max_rows=1)
    ids, mask = _texts(3)
    assert torch.equal(cache(ids, mask)[..., 0], ids.float())


def test_a_text_encoder_that_learns_cannot_be_kept() -> None:
    with pytest.raises(ConfigError, match=r"compute\.cached_texts"):
        replace(tiny_config(), compute=ComputeConfig(cached_texts=10))
