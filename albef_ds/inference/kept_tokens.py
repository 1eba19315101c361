"""Tokens of images that were judged before, kept in a folder, so that a later search does not encode these images again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from albef_ds.inference.inputs import ImageInput, Member

LIMIT = 128 << 20
"""Default for the bytes of all files: 160 images of the base model at 256 pixels."""
_SUFFIX, _CHECKSUM = ".tokens", 16


class KeptTokens:
    """Files of tokens in `folder`, one per image, with a checksum. The folder is a cache: whoever deletes it loses nothing.

    Args:
        folder: is made when the first tokens are kept.
        identity: hash of what tokens depend on besides the image.
        shape: (N, width) of an image's tokens.
        dtype: their type.
        limit: bytes of all files; those used longest ago are deleted first.
    """

    def __init__(self, folder: Path, identity: str, shape: tuple[int, int], dtype: torch.dtype, *, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._identity, self._shape, self._dtype = identity, shape, dtype

    def tokens(self, encode: Callable[[list[Any]], Tensor], images: list[ImageInput]) -> Tensor:
        """The tokens of `images` (B, N, width): those of image files are read, the others come from `encode` and are kept."""
        files = [self._file(image) for image in images]
        found = [None if file is None else self._read(file) for file in files]
        missing = [place for place, tokens in enumerate(found) if tokens is None]
        if len(missing) == len(images):
            encoded = encode(images)
        elif missing:
            encoded = encode([images[place] for place in missing])
        for row, place in enumerate(missing):
            found[place] = encoded[row]
            file = files[place]
            if file is not None:
                self._write(file, encoded[row])
        if missing:
            self._tidy()
            return torch.stack([tokens.to(encoded.device) for tokens in found if tokens is not None])
        return torch.stack([tokens for tokens in found if tokens is not None])

    def _file(self, image: ImageInput) -> Path | None:
        """The file of an image's tokens; None if the image is no file."""
        depends_on: tuple[object, ...]
        if isinstance(image, Member):
            depends_on = (self._identity, os.path.abspath(image.name), image.stamp)
        elif isinstance(image, str | Path):
            try:
                stat = os.stat(image)
            except OSError:
                return None
            depends_on = (self._identity, os.path.abspath(image), stat.st_size, stat.st_mtime_ns)
        else:
            return None
        return self.folder / (xxh3_128_hexdigest(repr(depends_on).encode("utf-8", "surrogatepass")) + _SUFFIX)

    def _read(self, file: Path) -> Tensor | None:
        """None if there is no such file or a damaged one."""
        try:
            content = bytearray(file.read_bytes())
            os.utime(file)
        except OSError:
            return None
        body = memoryview(content)[_CHECKSUM:]
        if len(body) != self._shape[0] * self._shape[1] * self._dtype.itemsize or xxh3_128_digest(body) != content[:_CHECKSUM]:
            return None
        return torch.frombuffer(content, dtype=torch.uint8)[_CHECKSUM:].view(self._dtype).view(self._shape)

    def _write(self, file: Path, tokens: Tensor) -> None:
        """Writes a file that is whole or absent; a disk that does not take it costs only the speed of a later search."""
        body = tokens.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        if len(body) > self.limit:
            return
        scratch = file.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            scratch.write_bytes(xxh3_128_digest(body) + body)
            os.replace(scratch, file)

    def _tidy(self) -> None:
        """Deletes files until they fit into the limit."""
        kept = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.endswith((_SUFFIX, ".tmp")):
                    with contextlib.suppress(OSError):  # another process may delete it
                        stat = entry.stat()
                        kept.append((stat.st_mtime_ns, stat.st_size, entry.path))
        size = sum(bytes_ for _, bytes_, _ in kept)
        for _, bytes_, path in sorted(kept):
            if size <= self.limit:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
            size -= bytes_
