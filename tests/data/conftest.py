"""Tiny real corpora: written by the shard writer, with images that can be decoded."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.files.shard_writer import ShardWriter

MakeCorpus = Callable[..., Path]


def picture(number: int, width: int = 40, height: int = 36, form: str = "PNG") -> bytes:
    """Returns a noisy image that depends on `number`."""
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def sample(number: int, **changes: Any) -> tuple[bytes, str, dict[str, Any]]:
    """Sample `number`; `changes` replace its image bytes or fields of its JSON."""
    image = changes.pop("image", None) or picture(number)
    meta = {"captions": [f"a dog number {number}", f"the cat of {number}"], "image_id": f"id{number}", "source": "test"}
    return image, "png", {**meta, **changes}


def numbered_corpus(folder: Path, count: int, per_shard: int, broken: dict[int, dict[str, Any]] | None = None) -> Path:
    """Writes the samples 0 to `count` - 1 to `folder`; `broken` maps sample numbers to changes. Returns the folder."""
    with ShardWriter(folder, samples_per_shard=per_shard) as writer:
        for number in range(count):
            writer.add(*sample(number, **(broken or {}).get(number, {})))
    return folder


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Writes a corpus of `count` samples; `broken` maps sample numbers to changes."""

    def make(count: int = 23, per_shard: int = 5, broken: dict[int, dict[str, Any]] | None = None, name: str = "corpus") -> Path:
        return numbered_corpus(tmp_path / name, count, per_shard, broken)

    return make
