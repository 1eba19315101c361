"""Batches of pairs and their split over ranks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef_ds.metrics.shortlists import PairBatch, judge, pair_batches, rounds_of

LENGTHS = torch.randint(2, 20, (40,), generator=torch.Generator().manual_seed(1))
PAIRS = torch.randperm(23 * 40, generator=torch.Generator().manual_seed(2))[:400].sort().values
IMAGES, TEXTS = PAIRS // 40, PAIRS % 40


def _blocks(block: int, max_tokens: int) -> list[list[PairBatch]]:
    return pair_batches(IMAGES, TEXTS, LENGTHS, block, max_tokens)


@pytest.mark.parametrize(("block", "max_tokens"), [(4, 50), (1, 1), (5, 10_000), (23, 300), (100, 7)])
def test_every_pair_is_in_one_batch_with_its_image_and_text(block: int, max_tokens: int) -> None:
    found = {}
    for batches in _blocks(block, max_tokens):
        assert len({image // block for batch in batches for image in batch.images}) == 1
        for batch in batches:
            pairs = [(image, text) for image, texts in zip(batch.images, batch.texts, strict=True) for text in texts]
            assert len(pairs) == len(batch.rows) and len(set(batch.images)) == len(batch.images)
            lengths = [int(LENGTHS[text]) for _, text in pairs]
            assert sum(lengths) - lengths[-1] < max_tokens + 20
            for texts in batch.texts:
                assert sorted(texts, key=lambda text: int(LENGTHS[text])) == texts
            found |= dict(zip(batch.rows.tolist(), pairs, strict=True))
    assert found == dict(enumerate(zip(IMAGES.tolist(), TEXTS.tolist(), strict=True)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 16, 1000])
def test_ranks_share_the_same_batches_about_evenly(world_size: int) -> None:
    blocks = _blocks(5, 30)
    total = sum(map(len, blocks))
    rounds = rounds_of(blocks, 5, world_size)
    rows = [tuple(batch.rows.tolist()) for units in rounds for unit in units for batch in unit.batches]
    assert sorted(rows) == sorted(tuple(batch.rows.tolist()) for batches in blocks for batch in batches)
    for units in rounds:
        assert len(units) <= world_size and len(units[0].batches) == max(len(unit.batches) for unit in units)
        for unit in units:
            assert {image // 5 for batch in unit.batches for image in batch.images} == {unit.block}
    steps = sum(len(units[0].batches) for units in rounds)
    # A block is not split unless it is more than a rank's share: at worst, ranks wait for one share.
    assert steps <= 2 * -(-total // world_size) + 1


def test_scores_come_back_to_the_rows_of_their_pairs() -> None:
    encoded, reported = [], []

    def encode(block: int) -> Tensor:
        encoded.append(block)
        return torch.tensor([float(block)])

    def compute(images: Tensor, batch: PairBatch) -> Tensor:
        owners = [image for image, texts in zip(batch.images, batch.texts, strict=True) for _ in texts]
        assert {owner // 5 for owner in owners} == {int(images)}
        texts = [text for texts in batch.texts for text in texts]
        return torch.tensor([owners, texts], dtype=torch.float32).t()

    rounds = rounds_of(_blocks(5, 30), 5, 1)
    scores = judge(rounds, len(PAIRS), encode, compute, lambda done, total: reported.append((done, total)))
    assert torch.equal(scores.long(), torch.stack([IMAGES, TEXTS], dim=1))
    assert sorted(encoded) == [0, 1, 2, 3, 4], "a block is encoded once"
    assert reported == [(done, len(reported)) for done in range(1, len(reported) + 1)]
