"""Reading shards by their manifest equals reading the tars."""

from __future__ import annotations

import os
import pickle
import tarfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xxhash

from albef_ds.common.errors import DataError
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.shards import reader as shards_module
from albef_ds.data.shards.format import Manifest, index_name, load_index
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


def test_bytes_that_are_not_those_written_are_a_broken_sample(make_corpus: Any) -> None:
    folder = make_corpus(4, per_shard=4)
    reader = ShardReader(folder)
    shard = reader.manifest.shards[0]
    image, _, meta, size = load_index(folder, shard)[2].tolist()
    for place in (image + 700, meta + size // 2):
        whole = (folder / shard.name).read_bytes()
        changed = bytearray(whole)
        changed[place] ^= 1
        (folder / shard.name).write_bytes(changed)
        with pytest.raises(BrokenSampleError, match="other bytes than written"):
            reader.read(0, 2)
        assert reader.read(0, 1) == ShardReader(folder).read(0, 1)
        assert len(ShardReader(folder, check=False).read(0, 2)[1]) == size
        (folder / shard.name).write_bytes(whole)


def test_a_damaged_index_is_one_line_and_an_old_one_has_no_checksums(make_corpus: Any) -> None:
    folder = make_corpus(4, per_shard=4)
    before, path = ShardReader(folder).read(0, 3), folder / index_name("00000.tar")
    np.save(path, np.load(path)[:, :4])
    with pytest.raises(DataError, match=r"00000.index.npy is damaged .its checksum.*albef-data index"):
        ShardReader(folder).read(0, 3)
    manifest = Manifest.load(folder)
    digest = xxhash.xxh3_128_hexdigest(path.read_bytes())
    Manifest((replace(manifest.shards[0], index_checksum=digest),), manifest.info).save(folder)
    assert ShardReader(folder).read(0, 3) == before


@pytest.mark.filterwarnings("error")
def test_the_bytes_of_a_damaged_index_are_not_interpreted(make_corpus: Any) -> None:
    path = make_corpus(4, per_shard=4) / index_name("00000.tar")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(4, ", b"(4L,"))  # numpy reads it with a warning: a header of Python 2
    assert path.read_bytes() != content
    with pytest.raises(DataError, match=r"00000.index.npy is damaged .its checksum"):
        ShardReader(path.parent).read(0, 3)
