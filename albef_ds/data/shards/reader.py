"""Random access to the samples of a corpus folder (`albef_ds.data.shards.format`): one `pread` for a picture, one for its JSON.

This module reads bytes; it neither decodes them nor decides which to read.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest, ShardEntry, load_index

OPEN_SHARDS = 64
"""Open files and indices kept per process."""


class ShardReader:
    """Reads sample `row` of shard `number`; checks all shards against the manifest when it is made.

    Safe to use after a fork (`pread` shares no file position) and to send to a spawned process (files are reopened).

    Raises:
        DataError: no manifest, a shard missing, or of another size than the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _check_folder(folder)
        self.manifest = Manifest.load(folder)
        self._open: OrderedDict[int, tuple[int, NDArray[np.int64]]] = OrderedDict()
        _check_shards(folder, self.manifest.shards)

    @property
    def counts(self) -> list[int]:
        """Samples per shard."""
        return [shard.num_samples for shard in self.manifest.shards]

    def shard_name(self, number: int) -> str:
        """File name of shard `number`."""
        return self.manifest.shards[number].name

    def read(self, number: int, row: int) -> tuple[bytes, bytes]:
        """Picture bytes and JSON bytes of one sample.

        Raises:
            DataError: the shard cannot be opened or ends before the sample does.
        """
        file, index = self._shard(number)
        image_offset, image_size, meta_offset, meta_size = index[row].tolist()
        return self._pread(file, number, image_size, image_offset), self._pread(file, number, meta_size, meta_offset)

    def read_meta(self, number: int, row: int) -> bytes:
        """JSON bytes of one sample, its picture left alone. Raises as `read`."""
        file, index = self._shard(number)
        return self._pread(file, number, int(index[row, 3]), int(index[row, 2]))

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _shard(self, number: int) -> tuple[int, NDArray[np.int64]]:
        entry = self._open.get(number)
        if entry is None:
            shard = self.manifest.shards[number]
            index = load_index(self.folder, shard)
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
            path = self._path(number)
            raise DataError(f"shard {path} cannot be read ({error.strerror}): check its disk") from None
        if len(data) != size:
            path = self._path(number)
            raise DataError(f"shard {path} ends early, it changed while it was read: copy it again")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()


def parse_meta(raw: bytes) -> dict[str, Any]:
    """The JSON member of a sample; ValueError if it is not a JSON object."""
    meta = json.loads(raw)
    if not isinstance(meta, dict):
        raise ValueError("not a JSON object")
    return meta


def _check_folder(folder: Path) -> None:
    """Say what a place without a manifest is, where that is easily told."""
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
    raise DataError(f"{folder} holds no shards: give a folder that `albef-data build` has written from pictures and captions")


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
