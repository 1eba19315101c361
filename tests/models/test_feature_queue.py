"""The feature queue as a ring buffer whose content does not depend on ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from albef_ds.models.feature_queue import NO_ID, FeatureQueue


def _put(queue: FeatureQueue, numbers: list[int], order: list[int] | None = None) -> None:
    """Enqueues features that encode their sample's number, in `order`."""
    values = torch.tensor(numbers)[torch.tensor(order)] if order else torch.tensor(numbers)
    features = values[:, None].float().repeat(1, 3)
    queue.enqueue(features, -features, values + 100, values + 200, values)


def _numbers(queue: FeatureQueue) -> list[int]:
    """Returns the sample numbers of the valid entries, which must be the same in all four buffers."""
    images, texts, image_ids, caption_ids = queue.contents()
    assert torch.equal(images, -texts) and torch.equal(image_ids + 100, caption_ids)
    assert torch.equal(images[:, 0].long() + 100, image_ids)
    return [int(number) for number in images[:, 0]]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 12])
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_holds_the_last_entries_for_any_size_and_batch(size: int, batch: int) -> None:
    queue = FeatureQueue(size, 3)
    for step in range(6):
        _put(queue, list(range(step * batch, (step + 1) * batch)))
        seen = (step + 1) * batch
        assert sorted(_numbers(queue)) == list(range(max(0, seen - size), seen))
        assert queue.filled == min(seen, size)


def test_overwrites_the_oldest_across_the_end() -> None:
    queue = FeatureQueue(5, 3)
    _put(queue, [0, 1, 2])
    assert (_numbers(queue), queue.pointer) == ([0, 1, 2], 3)
    _put(queue, [3, 4, 5])
    assert (_numbers(queue), queue.pointer) == ([5, 1, 2, 3, 4], 1)


def test_a_batch_larger_than_the_queue_leaves_its_last_samples() -> None:
    queue = FeatureQueue(4, 3)
    _put(queue, [0, 1])
    _put(queue, list(range(2, 13)))
    assert sorted(_numbers(queue)) == [9, 10, 11, 12]


def test_order_of_arrival_has_no_influence() -> None:
    orders = [[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2], [5, 1, 3, 0, 4, 2]]
    queues = [FeatureQueue(4, 3) for _ in orders]
    for queue, order in zip(queues, orders, strict=True):
        _put(queue, [10, 11, 12, 13, 14, 15], order)
        _put(queue, [16, 17, 18, 19, 20, 21], order)
    assert _numbers(queues[0]) == _numbers(queues[1]) == _numbers(queues[2])


def test_of_size_0_stays_empty() -> None:
    queue = FeatureQueue(0, 3)
    _put(queue, [0, 1, 2])
    assert _numbers(queue) == [] and queue.contents()[0].shape == (0, 3) and (queue.pointer, queue.filled) == (0, 0)


def test_only_a_queue_asked_to_be_filled_starts_with_entries() -> None:
    assert FeatureQueue(6, 3).contents()[0].shape == (0, 3)
    images, texts, image_ids, caption_ids = FeatureQueue(6, 3, start_filled=True).contents()
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(12))
    assert image_ids.tolist() == caption_ids.tolist() == [NO_ID] * 6


def test_goes_on_exactly_where_it_was_saved(tmp_path: Path) -> None:
    queue = FeatureQueue(5, 3)
    _put(queue, [0, 1, 2, 3])
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    other = FeatureQueue(5, 3)
    other.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    for one in (queue, other):
        _put(one, [4, 5, 6])
    assert _numbers(queue) == _numbers(other) and queue.pointer == other.pointer == 2


def test_keeps_its_own_precision() -> None:
    queue = FeatureQueue(2, 3)
    features = torch.ones(1, 3, dtype=torch.bfloat16)
    queue.enqueue(features, features, torch.tensor([1]), torch.tensor([1]), torch.tensor([1]))
    assert queue.images.dtype == torch.float32 and queue.filled == 1


def test_the_first_features_are_drawn_on_the_cpu_whatever_device_is_the_default() -> None:
    with torch.device("meta"):
        queue = FeatureQueue(4, 3)
    assert queue.images.device.type == queue.texts.device.type == "cpu"
    assert torch.equal(queue.images, FeatureQueue(4, 3).images)


@pytest.mark.parametrize("entries", [3, 5, 8])
@pytest.mark.parametrize("size", [0, 2, 4, 5, 9])
@pytest.mark.parametrize("start_filled", [False, True])
def test_a_queue_of_another_size_keeps_the_newest_entries(size: int, entries: int, start_filled: bool) -> None:
    stored = FeatureQueue(5, 2)
    for number in range(entries):
        feature = torch.full((1, 2), float(number))
        stored.enqueue(feature, -feature, torch.tensor([number]), torch.tensor([10 + number]), torch.tensor([number]))
    queue = FeatureQueue(size, 2, start_filled=start_filled)
    queue.restore(dict(stored.named_buffers()), stored.get_extra_state())
    newest = list(range(entries))[-min(5, size) :] if size else []
    images, texts, image_ids, caption_ids = queue.contents()
    assert sorted(i for i in image_ids.tolist() if i >= 0) == newest
    assert queue.filled == (size if start_filled and size != 5 else len(newest))
    for row, number in enumerate(image_ids.tolist()):
        if number >= 0:
            assert images[row].tolist() == [number] * 2 and texts[row].tolist() == [-number] * 2
            assert caption_ids[row] == 10 + number
    if size:  # the oldest goes next
        for number in range(100, 100 + size):
            one = torch.ones(1, 2)
            queue.enqueue(one, one, torch.tensor([number]), torch.tensor([number]), torch.tensor([number]))
        assert sorted(queue.contents()[2].tolist()) == list(range(100, 100 + size))
