"""The order of samples depends on seed and position only."""

from __future__ import annotations

import numpy as np
import pytest

from albef_ds.data import randomness
from albef_ds.data.stream import order as order_module
from albef_ds.data.stream.order import SampleOrder

COUNTS = [7, 1, 12, 0, 5, 9]


@pytest.mark.parametrize("window", [1, 8, 1000])
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_epoch_holds_every_sample_once(window: int, epoch: int) -> None:
    order = SampleOrder(COUNTS, seed=5, window_samples=window)
    n = order.num_samples
    found = [order.locate(position) for position in range(epoch * n, (epoch + 1) * n)]
    assert sorted(found) == [(shard, row) for shard, count in enumerate(COUNTS) for row in range(count)]


def test_order_depends_on_seed_and_epoch_only_and_is_open_to_random_access() -> None:
    one, other = SampleOrder(COUNTS, seed=1), SampleOrder(COUNTS, seed=1)
    forward = [one.locate(position) for position in range(3 * one.num_samples)]
    backward = [other.locate(position) for position in reversed(range(3 * one.num_samples))]
    assert forward == backward[::-1]
    first, second = forward[: one.num_samples], forward[one.num_samples : 2 * one.num_samples]
    assert first != second
    assert first != [SampleOrder(COUNTS, seed=2).locate(position) for position in range(one.num_samples)]


def test_epochs_of_a_single_shard_differ() -> None:
    order = SampleOrder([50], seed=0)
    rows = [order.locate(position)[1] for position in range(150)]
    assert rows[:50] != rows[50:100] != rows[100:]


def test_a_small_corpus_is_mixed_across_shards() -> None:
    order = SampleOrder([100] * 10, seed=0)
    changes = sum(order.locate(p)[0] != order.locate(p + 1)[0] for p in range(999))
    assert changes > 800  # 900 expected of a uniform permutation; shard by shard it would be 9


def test_windows_bound_memory_and_keep_whole_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def recorded(size: int, key: int) -> np.ndarray:
        sizes.append(size)
        return drawn(size, key)

    drawn = randomness.permutation
    order_module._permutation.cache_clear()
    monkeypatch.setattr(randomness, "permutation", recorded)
    order = SampleOrder([1000] * 14_000, seed=0, window_samples=20_000)
    for position in (0, 7_000_000, 13_999_999, 14_000_000):
        order.locate(position)
    assert max(sizes) <= 21_000


def test_permutations_do_not_prefer_any_place() -> None:
    size, draws = 20, 4000
    counts = np.zeros((size, size), int)
    for key in range(draws):
        counts[np.arange(size), randomness.permutation(size, randomness.mix(key))] += 1
    chi_square = ((counts - draws / size) ** 2 / (draws / size)).sum()
    assert 250 < chi_square < 490  # 361 degrees of freedom, standard deviation 27


def test_another_thread_may_look_at_later_epochs() -> None:
    order = SampleOrder(COUNTS, seed=5)
    expected = [order.locate(position) for position in range(order.num_samples)]
    known = order._epochs
    for epoch in range(1, 4):
        list(order.shards_ahead(epoch * order.num_samples))
    assert list(known) == [0] and len(order._epochs) == 2  # what a thread holds does not change under it
    assert [order.locate(position) for position in range(order.num_samples)] == expected


def test_shards_ahead_are_those_of_the_next_samples() -> None:
    order = SampleOrder(COUNTS, seed=5, window_samples=8)
    for position in range(2 * order.num_samples):
        (first, left), *later = order.shards_ahead(position)
        assert order.locate(position)[0] in first and 0 < left <= 1
        assert {shard for group, _ in [(first, left), *later] for shard in group} == {0, 1, 2, 4, 5}
        end = next(p for p in range(position, 3 * order.num_samples) if order.locate(p)[0] not in first)
        assert order.locate(end)[0] in later[0][0]


def test_groups_stay_together_and_every_sample_still_comes_once() -> None:
    order = SampleOrder([10, 9], seed=3, group_size=4)
    rows = [shard * 10 + row for shard, row in (order.locate(position) for position in range(19))]
    # The window lays shards one behind the other in the epoch's order; 19 samples make 4 groups and 3 left over.
    groups = [rows[start : start + 4] for start in range(0, 16, 4)]
    shards_in_order = rows[16:]
    assert sorted(rows) == list(range(19))
    layout = list(range(10, 19)) + list(range(10)) if shards_in_order[-1] == 9 else list(range(19))
    assert sorted(groups) == sorted(layout[start : start + 4] for start in range(0, 16, 4))
    assert groups != [layout[start : start + 4] for start in range(0, 16, 4)]
