"""Slicing and moving of batches."""

from __future__ import annotations

import torch

from albef_ds.data.batch import Batch
from albef_ds.data.images.normalise import MEAN, STD
from albef_ds.data.images.view import DecodedImages
from tests.tasks.finetuning import TASKS, task_batch


def test_a_slice_of_questions_takes_their_answers_along() -> None:
    batch = task_batch("vqa", 0, 6)
    part = batch[slice(2, 5)]
    assert len(part) == 3 and part.answer_counts.tolist() == [1, 2, 1]
    first = int(batch.answer_counts[:2].sum())
    assert torch.equal(part.answer_ids, batch.answer_ids[first : first + 4])
    assert torch.equal(part.answer_weights, batch.answer_weights[first : first + 4])
    assert torch.equal(part.images, batch.images[2:5])
    assert batch[slice(6, 9)].answer_ids.shape == (0, batch.answer_ids.shape[1])


def test_slices_put_together_are_the_batch() -> None:
    for name in TASKS:
        batch = task_batch(name, 0, 6)
        parts = [batch[slice(start, start + 2)] for start in (0, 2, 4)]
        for field in ("images", "token_ids", "positions"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(batch, field)), name
        moved = batch.to(torch.device("cpu"))
        assert type(moved) is type(batch) and torch.equal(moved.token_mask, batch.token_mask)


def test_grey_levels_become_normalised_colours_on_the_way_to_the_device() -> None:
    levels = torch.randint(0, 256, (3, 2, 5, 4, 4), dtype=torch.uint8)  # two images each, and a meaningless byte
    ids = torch.ones(3, 2, dtype=torch.int64)
    batch = Batch(images=DecodedImages(levels), token_ids=ids, token_mask=ids.bool(), positions=torch.arange(3))
    moved = batch.to(torch.device("cpu"))
    assert moved.images.shape == (3, 2, 3, 5, 4) and moved.images.is_contiguous()
    expected = (levels[..., :3].double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(moved.images.double(), expected.permute(0, 1, 4, 2, 3), atol=1e-5, rtol=0)
    assert torch.equal(moved.to(torch.device("cpu")).images, moved.images)
