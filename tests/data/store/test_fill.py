"""Whole shards come into the cache in the order of their use, as far as they fit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from albef_ds.data.store import fill
from albef_ds.data.store.fill import CacheFiller
from albef_ds.data.store.reader import StoreReader
from albef_ds.data.stream.order import SampleOrder

INDEX_BYTES = 23 * 48 + 5 * 256


class _Ahead:
    """The shards ahead of `position` of an order."""

    def __init__(self, order: SampleOrder, position: int = 0) -> None:
        self.order, self.position = order, position

    def __call__(self) -> Iterator[tuple[list[int], float]]:
        return self.order.shards_ahead(self.position)


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheFiller, "_run", lambda self: None)


def filler(reader: StoreReader, ahead: _Ahead, max_bytes: int, share: float = 1.0) -> CacheFiller:
    return CacheFiller(reader, ahead, max_bytes, share)


@pytest.mark.usefixtures("no_thread")
def test_the_shards_of_the_next_windows_are_kept(s3_corpus: str, tmp_path: Path) -> None:
    room = 2 * 32256 + INDEX_BYTES  # two shards and a bit of a third
    reader = StoreReader(s3_corpus, tmp_path, room)
    assert max(reader.sizes) <= 32256
    order = SampleOrder(reader.counts, seed=1, window_samples=5)  # a window is one shard
    expected = list(itertools.chain.from_iterable(group for group, _ in order.shards_ahead(0)))
    ahead = _Ahead(order)
    filling = filler(reader, ahead, room)
    # Less than half of a window that is not in the cache is not worth fetching whole.
    for position, first in ((0, 0), (1, 0), (3, 1), (6, 1), (10, 2)):
        ahead.position = position
        assert filling.wanted() == expected[first : first + 2], position
    ahead.position = 10
    while filling._fetch_next():
        assert reader.cache.used() <= room
    assert {path.name for path in reader.cache.corpus.glob("*.tar")} == {reader.shard_name(n) for n in expected[2:4]}
    ahead.position = 15
    while filling._fetch_next():
        assert reader.cache.used() <= room
    assert {path.name for path in reader.cache.corpus.glob("*.tar")} == {reader.shard_name(n) for n in expected[3:5]}


@pytest.mark.usefixtures("no_thread")
def test_a_small_share_of_a_large_corpus_is_not_fetched_whole(s3_corpus: str, tmp_path: Path) -> None:
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    ahead = _Ahead(SampleOrder(reader.counts, seed=1))
    assert filler(reader, ahead, 70_000, share=0.25).wanted() == []
    assert len(filler(reader, ahead, 10**9, share=0.25).wanted()) == 5  # all of it fits, for all epochs
    assert filler(reader, ahead, 1000).wanted() == []  # not even the indices fit


def test_one_process_fills_and_another_takes_over(monkeypatch: pytest.MonkeyPatch, s3_corpus: str, tmp_path: Path) -> None:
    monkeypatch.setattr(fill, "_PAUSE", 0.01)
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    with reader.cache.leading():
        filling = CacheFiller(reader, _Ahead(SampleOrder(reader.counts, seed=1)), 10**9, 1.0)
        time.sleep(0.05)
        assert not list(reader.cache.corpus.glob("*.tar"))
    while len(list(reader.cache.corpus.glob("*.tar"))) < 5:
        time.sleep(0.01)
    filling.close()
