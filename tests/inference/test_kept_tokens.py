"""Tokens kept between searches are those of the image as it is now, or are computed again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef_ds.inference.kept_tokens import KeptTokens

SIZE = 16 + 3 * 2 * 4
"""Bytes of a file: checksum, and 3 tokens of width 2 in fp32."""


class Encoder:
    """Counts the images it encodes."""

    def __init__(self) -> None:
        self.encoded: list[Any] = []

    def __call__(self, images: list[Any]) -> Tensor:
        self.encoded += images
        return torch.stack([torch.full((3, 2), float(len(str(image)))) for image in images])


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / ("x" * number) for number in range(1, 5)]
    for path in paths:
        path.write_bytes(b"image")
    return paths


def _kept(tmp_path: Path, identity: str = "model", limit: int = 1000, dtype: torch.dtype = torch.float32) -> KeptTokens:
    return KeptTokens(tmp_path / "kept", identity, (3, 2), dtype, limit=limit)


def _encoded(kept: KeptTokens, images: list[Any]) -> list[Any]:
    encoder = Encoder()
    found = kept.tokens(encoder, images)
    assert torch.equal(found.float(), Encoder()(images))
    return encoder.encoded


def test_an_image_is_encoded_once_by_each_model(tmp_path: Path, images: list[Path]) -> None:
    assert _encoded(_kept(tmp_path), images[:2]) == images[:2]
    assert _encoded(_kept(tmp_path), images[:3]) == images[2:3]
    assert _encoded(_kept(tmp_path), [images[2], images[0]]) == []
    assert _encoded(_kept(tmp_path, "another"), images[:1]) == images[:1]


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 5))


def _longer(path: Path) -> None:
    path.write_bytes(b"image of more bytes")


@pytest.mark.parametrize("change", [_touch, _longer])
def test_a_changed_image_is_encoded_again(tmp_path: Path, images: list[Path], change: Callable[[Path], None]) -> None:
    _encoded(_kept(tmp_path), images)
    change(images[1])
    assert _encoded(_kept(tmp_path), images) == [images[1]]


def test_a_damaged_file_is_no_file(tmp_path: Path, images: list[Path]) -> None:
    _encoded(_kept(tmp_path), images[:1])
    [file] = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    assert len(whole) == SIZE
    for place in range(SIZE):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert _encoded(_kept(tmp_path), images[:1]) == images[:1], place
    for content in (b"", whole[:-1], whole + b"\0", whole[:16]):
        file.write_bytes(content)
        assert _encoded(_kept(tmp_path), images[:1]) == images[:1]


def test_those_used_longest_ago_give_way(tmp_path: Path, images: list[Path]) -> None:
    kept = _kept(tmp_path, limit=3 * SIZE)
    _encoded(kept, images[:3])
    for age, image in enumerate(images[:3]):
        file = kept._file(image)
        assert file is not None
        os.utime(file, ns=(age, age))
    assert _encoded(kept, images[:1]) == []  # read, so it is the newest now
    assert _encoded(kept, images[3:]) == images[3:]
    assert len(list(kept.folder.iterdir())) == 3
    assert _encoded(kept, images[:1]) == [] and _encoded(kept, images[1:2]) == images[1:2]


def test_images_in_memory_and_disks_that_take_nothing_are_encoded_each_time(tmp_path: Path, images: list[Path]) -> None:
    assert _encoded(_kept(tmp_path), [7]) == [7] and not (tmp_path / "kept").exists()
    assert _encoded(_kept(tmp_path, limit=SIZE - 17), images[:1]) == images[:1] and not (tmp_path / "kept").exists()
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert _encoded(_kept(tmp_path), images[:1]) == _encoded(_kept(tmp_path), images[:1]) == images[:1]
