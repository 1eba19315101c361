"""Small real pictures that the tests of the data tools are made of."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def scene(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture with structure that differs for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """`image` as a file of format `kind`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def jpeg(seed: int, **size: int) -> bytes:
    """`scene(seed)` as JPEG bytes."""
    return encoded(scene(seed, **size))


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar with these members in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def folder_corpus(folder: Path, pictures: dict[str, tuple[bytes, list[str]]]) -> Path:
    """A folder with each picture and its captions beside it."""
    for name, (content, captions) in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.with_suffix(".json").write_text(json.dumps({"captions": captions}))
    return folder
