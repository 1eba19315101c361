"""Random access to the samples of a corpus folder (`albef_ds.data.shards.format`): one `pread` for an image, one for its JSON.

This module reads bytes; it neither decodes them nor chooses which to read.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.shards.format import MANIFEST_NAME, WITH_CHECKSUMS, Manifest, ShardEntry, checksum, load_members

OPEN_SHARDS = 64
"""Number of open files and indices kept per process."""

_ALL_BITS = (1 << 64) - 1


class SampleReader(Protocol):
    """Random access to the samples of a corpus, wherever it is."""

    manifest: Manifest

    @property
    def folder(self) -> Path | str:
        """Folder or URL of the corpus, for messages."""

    @property
    def counts(self) -> list[int]:
        """Number of samples per shard."""

    def shard_name(self, number: int) -> str:
        """Returns the file name of shard `number`."""

    def read(self, number: int, row: int) -> tuple[bytes, bytes]:
        """Returns image bytes and JSON bytes of one sample."""

    def read_meta(self, number: int, row: int) -> bytes:
        """Returns the JSON bytes of one sample."""

    def close(self) -> None:
        """Closes files and connections; a later read opens them again."""


class ShardReader:
    """Reads sample `row` of shard `number`. The constructor checks all shards against the manifest.

    With `check`, every member that is read is compared with its checksum in the index, if the corpus was written with checksums.
    Usable after a fork (`pread` shares no file position) and picklable (a spawned process reopens the files).

    Raises:
        DataError: the manifest or a shard is missing, or a shard's size differs from the manifest.
    """

    def __init__(self, folder: Path, *, check: bool = True) -> None:
        self.folder, self._check = folder, check
        _check_folder(folder)
        self.manifest = Manifest.load(folder)
        self._open: OrderedDict[int, tuple[int, NDArray[np.int64]]] = OrderedDict()
        _check_shards(folder, self.manifest.shards)

    @property
    def counts(self) -> list[int]:
        """Number of samples per shard."""
        return [shard.num_samples for shard in self.manifest.shards]

    def shard_name(self, number: int) -> str:
        """Returns the file name of shard `number`."""
        return self.manifest.shards[number].name

    def read(self, number: int, row: int) -> tuple[bytes, bytes]:
        """Returns image bytes and JSON bytes of one sample.

        Raises:
            DataError: the shard cannot be opened, or ends before the sample.
            BrokenSampleError: the bytes are not those that were written.
        """
        file, index = self._shard(number)
        place: list[int] = index[row].tolist()
        image, meta = self._pread(file, number, place[1], place[0]), self._pread(file, number, place[3], place[2])
        if self._check and len(place) == WITH_CHECKSUMS:
            compare(image, place[4])
            compare(meta, place[5])
        return image, meta

    def read_meta(self, number: int, row: int) -> bytes:
        """Returns the JSON bytes of one sample without reading its image. Raises as `read`."""
        file, index = self._shard(number)
        place: list[int] = index[row].tolist()
        meta = self._pread(file, number, place[3], place[2])
        if self._check and len(place) == WITH_CHECKSUMS:
            compare(meta, place[5])
        return meta

    def close(self) -> None:
        """Closes all files; a later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _shard(self, number: int) -> tuple[int, NDArray[np.int64]]:
        entry = self._open.get(number)
        if entry is None:
            shard = self.manifest.shards[number]
            index = load_members(self.folder, shard)
            try:
                file = os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DataError(f"shard {self._path(number)} cannot be opened ({error.strerror}): restore it") from None
            while len(self._open) >= OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1][0])
            entry = self._open[number] = (file, index)
        self._open.move_to_end(number)
        return entry

    def _path(self, number: int) -> Path:
        return self.folder / self.shard_name(number)

    def _pread(self, file: int, number: int, size: int, offset: int) -> bytes:
        try:
            data = os.pread(file, size, offset)
            while 0 < len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise DataError(f"shard {self._path(number)} cannot be read ({error.strerror}): check its disk") from None
        if len(data) != size:
            raise DataError(f"shard {self._path(number)} ends early, it changed while it was read: copy it again")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()


def compare(member: bytes, bits: int) -> None:
    """Raises `BrokenSampleError` unless `member` has the checksum whose `bits` are in the index."""
    if checksum(member) != bits & _ALL_BITS:
        raise BrokenSampleError("other bytes than written", "its checksum differs from the index's: copy the shard again")


def parse_meta(raw: bytes) -> dict[str, Any]:
    """Returns the JSON member of a sample. Raises `ValueError` if it is not a JSON object."""
    meta = json.loads(raw)
    if not isinstance(meta, dict):
        raise ValueError("not a JSON object")
    return meta


def _check_folder(folder: Path) -> None:
    """Explains common mistakes when there is no manifest. Raises `DataError`."""
    if folder.is_file():
        raise DataError(f"{folder} is a file, not a corpus: give its folder, which `albef-data build` has written")
    if not folder.is_dir() or (folder / MANIFEST_NAME).exists():
        return
    tars = sorted(path.name for path in folder.glob("*.tar"))
    if tars:
        names = f"{{{tars[0][:-4]}..{tars[-1][:-4]}}}.tar" if len(tars) > 1 else tars[0]
        raise DataError(
            f"{folder} holds tars without {MANIFEST_NAME}: name them, {folder / names}, or make a corpus with `albef-data build`"
        )
    raise DataError(f"{folder} holds no shards: give a folder that `albef-data build` has written from images and captions")


def _check_shards(folder: Path, shards: tuple[ShardEntry, ...]) -> None:
    missing = []
    for shard in shards:
        try:
            size = os.stat(folder / shard.name).st_size
        except FileNotFoundError:
            missing.append(shard.name)
            continue
        if size != shard.num_bytes:
            state = "is truncated" if size < shard.num_bytes else "has grown"
            raise DataError(
                f"shard {folder / shard.name} {state}: {size} bytes, the manifest says {shard.num_bytes}; copy it again"
            )
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} of {len(shards)} shards are missing in {folder}: {names}; copy them again")
