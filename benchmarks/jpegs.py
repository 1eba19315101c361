"""Made photographs for benchmarks: JPEGs with smooth colours and noise, whose size and cost are a photograph's."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def photograph(rng: np.random.Generator, quality: int = 90) -> bytes:
    """A 640 x 480 JPEG with smooth colours and noise, of about 165 KB; of about 58 KB at quality 57."""
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(np.float32) + rng.normal(0, 18, (480, 640, 3)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def smooth_picture(rng: np.random.Generator, width: int = 300, height: int = 240) -> bytes:
    """A JPEG of smooth colours, on which decoders differ by their rounding alone."""
    coarse = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
