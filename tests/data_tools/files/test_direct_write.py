"""Bytes written past the page cache are the bytes given, whatever their sizes and whatever the file system allows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xxhash

from data_tools.files.direct_write import BUFFER, DirectFile


@pytest.mark.parametrize(
    "sizes", [[], [1], [512, 9000, 0, 700], [BUFFER], [BUFFER - 1, 1, 1], [3 * BUFFER + 17], [BUFFER // 2 + 3] * 5]
)
def test_parts_of_any_size_are_written_in_order_with_their_checksum(sizes: list[int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.bytes(size) for size in sizes]
    file = DirectFile(tmp_path / "x")
    for part in parts:
        file.append(part)
    checksum = file.close()
    whole = b"".join(parts)
    assert (tmp_path / "x").read_bytes() == whole
    assert (file.num_bytes, checksum) == (len(whole), xxhash.xxh3_128_hexdigest(whole))


def test_a_file_system_that_refuses_direct_writes_is_written_the_usual_way(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(2 * BUFFER)
    file = DirectFile(tmp_path / "x")
    os.lseek(file._file, 100, os.SEEK_SET)  # a place at which no disk takes a direct write
    file.append(data)
    file.close()
    assert (tmp_path / "x").read_bytes()[100:] == data[:-100]


def test_giving_up_leaves_nothing(tmp_path: Path) -> None:
    file = DirectFile(tmp_path / "x")
    file.append(b"x" * (BUFFER + 5))
    file.abort()
    file.abort()
    assert not list(tmp_path.iterdir())
