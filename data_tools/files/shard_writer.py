"""Writes shards: USTAR tars made of 512-byte blocks, their index and the manifest (`albef_ds.data.shards.format`).

The same samples always give the same bytes: headers hold no time, owner or machine, and JSON has sorted keys and no spaces.
A tar is written and hashed under a temporary name, then renamed, so a file with a final name is complete. Callers decide
which samples are written, and in which order.
"""

from __future__ import annotations

import io
import json
import os
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash
from typing_extensions import Self

from albef_ds.common.atomic_files import temporary_name, write_file
from albef_ds.common.errors import ConfigError, DataError, MachineError
from albef_ds.data.shards.format import (
    BLOCK,
    IMAGE_EXTENSIONS,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    checksum,
    index_name,
    sample_key,
    shard_name,
)
from data_tools.files.direct_write import DirectFile

Sample = tuple[bytes, str, dict[str, Any]]
"""Image bytes, extension without a dot, metadata."""

WRITING_NAME = "_writing"  # marks a folder with an unfinished corpus of ours, which may be written into
_PADDING = bytes(BLOCK)
_MODE_TO_OWNER = b"0000644\x00" + 2 * b"0000000\x00"
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x00" + b"00" + bytes(64) + 2 * b"0000000\x00" + bytes(155 + 12)
_MTIME = b"00000000000\0"
_FIXED_SUM = sum(_MODE_TO_OWNER) + sum(_MTIME) + sum(b" " * 8) + sum(_AFTER_CHECKSUM)
_MAX_SIZE = 8**11 - 1  # what eleven octal digits hold
OWN_FILE = re.compile(r"\d{5,}\.(tar|index\.npy)")


def tar_header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header of a plain file, owner and time 0. Raises DataError above 100 ASCII bytes of name or 8 GiB."""
    raw = name.encode("ascii")
    digits = b"%011o\0" % size
    if len(raw) > 100 or size > _MAX_SIZE:
        raise DataError(f"tar member {name[:120]} of {size} bytes exceeds a USTAR header: shorten the name or split the file")
    checksum = _FIXED_SUM + sum(raw) + sum(digits)
    return b"".join((raw.ljust(100, b"\0"), _MODE_TO_OWNER, digits, _MTIME, b"%06o\0 " % checksum, _AFTER_CHECKSUM))


def member_blocks(size: int) -> int:
    """Bytes that a member of `size` bytes takes in a tar, with header and padding."""
    return BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK


def encode_meta(meta: dict[str, Any]) -> bytes:
    """`meta` as compact UTF-8 JSON with sorted keys.

    Raises DataError if `captions`, `image_id` or `source` is missing or of another type, or a value is not JSON.
    """
    captions = meta.get("captions")
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"captions of sample {meta.get('image_id')} are {captions!r}: give a list of at least one string")
    for name in ("image_id", "source"):
        if not isinstance(meta.get(name), str):
            raise DataError(f"{name} of a sample is {meta.get(name)!r}: give a string")
    try:
        return _ENCODER.encode(meta).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(f"metadata of sample {meta['image_id']} is not JSON ({error}): give text, numbers, lists") from None


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class ShardFile:
    """One tar being written. `first_sample` is the corpus-wide number of its first sample."""

    def __init__(self, folder: Path, number: int, first_sample: int) -> None:
        self.folder = folder
        self.name = shard_name(number)
        self._next_sample = first_sample
        self._offsets, self._checksums = array("q"), array("Q")
        self._temporary = temporary_name(folder / self.name)
        self._file = DirectFile(self._temporary)

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._file.num_bytes

    @property
    def num_samples(self) -> int:
        """Samples added so far."""
        return len(self._checksums) // 2

    def add(self, image: bytes, extension: str, meta: bytes) -> None:
        """Appends a sample; `meta` is from `encode_meta`. Raises DataError for an empty image or one not in IMAGE_EXTENSIONS."""
        if extension not in IMAGE_EXTENSIONS or not image:
            raise DataError(
                f"sample {self._next_sample} is a {extension or 'nameless'} file of {len(image)} bytes: "
                f"give an image in one of {', '.join(IMAGE_EXTENSIONS)}"
            )
        key, append = sample_key(self._next_sample), self._file.append
        image_offset = self.num_bytes + BLOCK
        meta_offset = image_offset + member_blocks(len(image))
        append(tar_header(f"{key}.{extension}", len(image)))
        append(image)
        # Small pieces are joined: another call costs more than the copy.
        rest = (_PADDING[: -len(image) % BLOCK], tar_header(f"{key}.json", len(meta)), meta, _PADDING[: -len(meta) % BLOCK])
        append(b"".join(rest))
        self._offsets.extend((image_offset, len(image), meta_offset, len(meta)))
        self._checksums.extend((checksum(image), checksum(meta)))
        self._next_sample += 1

    def close(self) -> ShardEntry:
        """Finishes the tar and its index, flushes both to disk and renames them to their final names, the tar last."""
        self._file.append(bytes(2 * BLOCK))
        digest = self._file.close()
        index_checksum = save_index(self.folder, self.name, self._offsets, self._checksums)
        os.replace(self._temporary, self.folder / self.name)
        return ShardEntry(self.name, self.num_samples, self.num_bytes, digest, index_checksum)

    def abort(self) -> None:
        """Closes and removes the temporary file."""
        self._file.abort()


def save_index(folder: Path, shard: str, offsets: array[int], checksums: array[int]) -> str:
    """Writes the index of `shard`, whose four offsets and two checksums per sample follow each other; returns its `xxh3_128`."""
    index = np.hstack((np.frombuffer(offsets, np.int64).reshape(-1, 4), np.frombuffer(checksums, np.int64).reshape(-1, 2)))
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    content = buffer.getvalue()
    write_file(folder / index_name(shard), content, durable=True)
    return xxhash.xxh3_128_hexdigest(content)


def write_shard(folder: Path, number: int, first_sample: int, samples: Iterable[Sample]) -> ShardEntry:
    """Writes all of shard `number`, whose samples are numbered from `first_sample`. Running it again gives the same bytes."""
    shard = ShardFile(folder, number, first_sample)
    try:
        for image, extension, meta in samples:
            shard.add(image, extension, encode_meta(meta))
        return shard.close()
    except BaseException:
        shard.abort()
        raise


def open_folder(folder: Path) -> None:
    """Makes `folder` and marks it as unfinished. Raises MachineError if it holds a finished corpus or tars of another origin."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST_NAME).exists():
        raise MachineError(f"{folder} already holds a corpus: give a new folder, or add to it with `albef-data append`")
    if not (folder / WRITING_NAME).exists():
        if any(folder.glob("*.tar")):
            raise MachineError(f"{folder} holds tars of another origin: give a new folder")
        (folder / WRITING_NAME).touch()


def whole_manifest(shards: Iterable[ShardEntry], info: dict[str, Any], place: object) -> Manifest:
    """Returns the manifest of all `shards` of the corpus at `place`. Raises DataError without samples."""
    manifest = Manifest(tuple(shards), info)
    if manifest.num_samples == 0:
        raise DataError(f"no sample was written to {place}: check the sources and what the filters dropped")
    return manifest


def shard_files(manifest: Manifest) -> set[str]:
    """Returns the names of all tars and indices."""
    return {name for shard in manifest.shards for name in (shard.name, index_name(shard.name))}


def finish_folder(folder: Path, shards: Iterable[ShardEntry], info: dict[str, Any]) -> Manifest:
    """Writes the manifest of `shards`, removes an interrupted run's leftovers and the mark. Raises DataError without samples."""
    manifest = whole_manifest(shards, info, folder)
    listed = shard_files(manifest)
    for path in folder.iterdir():
        if path.name not in listed and (OWN_FILE.fullmatch(path.name) or (OWN_FILE.match(path.name) and path.suffix == ".tmp")):
            path.unlink()
    manifest.save(folder)
    (folder / WRITING_NAME).unlink(missing_ok=True)
    return manifest


class ShardWriter:
    """Writes a corpus sample by sample, in the order given, and starts a new shard when one is full.

    A shard is full at `samples_per_shard` samples, or when the next sample would take it above `bytes_per_shard` bytes; give
    one of the two, or both. Use it as a context manager: an exception leaves no manifest, and the next run starts over.

    Raises:
        UserError: no limit is given or one is below 1, or the folder holds something else (`open_folder`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        samples_per_shard: int | None = None,
        bytes_per_shard: int | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        limits = [limit for limit in (samples_per_shard, bytes_per_shard) if limit is not None]
        if not limits or min(limits) < 1:
            raise ConfigError("shard size is not set: give samples_per_shard or bytes_per_shard, 1 or more")
        self.folder = Path(folder)
        open_folder(self.folder)
        self._samples_limit = samples_per_shard
        self._bytes_limit = bytes_per_shard
        self._info = dict(info or {})
        self._entries: list[ShardEntry] = []
        self._num_samples = 0
        self._shard: ShardFile | None = None

    def add(self, image: bytes, extension: str, meta: dict[str, Any]) -> None:
        """Appends a sample. Raises UserError if it does not fit the format (`albef_ds.data.shards.format`)."""
        encoded = encode_meta(meta)
        if self._shard is not None and self._is_full(self._shard, image, encoded):
            self._finish_shard()
        if self._shard is None:
            self._shard = ShardFile(self.folder, len(self._entries), self._num_samples)
        self._shard.add(image, extension, encoded)
        self._num_samples += 1

    def _is_full(self, shard: ShardFile, image: bytes, meta: bytes) -> bool:
        if self._samples_limit is not None and shard.num_samples >= self._samples_limit:
            return True
        if self._bytes_limit is None:
            return False
        return shard.num_bytes + member_blocks(len(image)) + member_blocks(len(meta)) + 2 * BLOCK > self._bytes_limit

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._entries.append(self._shard.close())
            self._shard = None

    def close(self) -> Manifest:
        """Finishes the last shard and writes the manifest. Raises UserError if nothing was added."""
        self._finish_shard()
        return finish_folder(self.folder, self._entries, self._info)

    def abort(self) -> None:
        """Removes the unfinished shard and writes no manifest."""
        if self._shard is not None:
            self._shard.abort()
            self._shard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
