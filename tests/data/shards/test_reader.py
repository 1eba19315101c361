"""Reading shards by their manifest equals reading the tars."""

from __future__ import annotations

import os
import pickle
import tarfile
from typing import Any

from albef_ds.data.shards import reader as shards_module
from albef_ds.data.shards.reader import ShardReader, parse_meta


def test_reading_by_index_equals_reading_the_tar(make_corpus: Any) -> None:
    folder = make_corpus(12)
    reader = ShardReader(folder)
    for number, count in enumerate(reader.counts):
        with tarfile.open(folder / reader.shard_name(number)) as tar:
            contents = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
        for row in range(count):
            assert reader.read(number, row) == (contents[2 * row], contents[2 * row + 1])
            assert reader.read_meta(number, row) == contents[2 * row + 1]


def test_open_files_are_bounded(make_corpus: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards_module, "OPEN_SHARDS", 3)
    reader = ShardReader(make_corpus(24, per_shard=2))
    before = len(os.listdir("/proc/self/fd"))
    for number in [*range(12), 0, 5]:
        reader.read(number, 1)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert parse_meta(reader.read_meta(11, 0))["image_id"] == "id22"


def test_a_reader_travels_to_another_process_without_its_files(make_corpus: Any) -> None:
    reader = ShardReader(make_corpus())
    first = reader.read(0, 0)
    other = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert other.read(0, 0) == first
