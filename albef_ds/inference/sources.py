"""Where searched images come from: a folder, a text file that lists paths, or the shards of a corpus. Decodes nothing."""

from __future__ import annotations

import codecs
import os
import threading
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest, sample_key
from albef_ds.data.shards.reader import ShardReader
from albef_ds.inference.inputs import Member

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
"""HEIC is read where the package pillow-heif is installed; of an animation the first image counts."""
INDEX_NAME = ".albef-index"


class Source(Protocol):
    """Images that are named, listed again and again, and read one by one."""

    place: Path
    """What the user gave."""
    index: Path
    """Where the index of their features is kept unless the user says otherwise."""

    def listing(self) -> dict[str, str]:
        """Name -> stamp of the images that are there now; another stamp means other content. Raises `DataError`."""

    def image(self, name: str) -> Path | Member:
        """What the model reads."""

    def path(self, name: str) -> Path:
        """The path to show."""

    def holds(self, name: str) -> bool:
        """Whether the image is still one that the user gave: a file may have become a link to another place."""


def source_of(place: Path) -> Source:
    """The images of a folder, of a `manifest.json` of shards, or of the paths in a text file.

    Raises `DataError` if `place` is none of these.
    """
    if place.is_dir():
        return FolderImages(place)
    if not place.is_file():
        raise DataError(f"{place} is not a folder: give one with images, a text file of paths, or the {MANIFEST_NAME} of shards")
    return ShardImages(place) if place.name == MANIFEST_NAME else ListedImages(place)


class FolderImages:
    """The image files of a folder and its subfolders."""

    def __init__(self, folder: Path) -> None:
        self.place, self.index = folder, folder / INDEX_NAME

    def listing(self) -> dict[str, str]:
        try:
            os.scandir(self.place).close()
        except OSError as error:
            raise DataError(f"{self.place} cannot be read ({error.strerror}): give a folder with images") from None
        found = dict(sorted(_scan(str(self.place), "")))
        if not found and (self.place / MANIFEST_NAME).is_file():
            raise DataError(f"{self.place} holds shards: give {self.place / MANIFEST_NAME} for their images")
        return found

    def image(self, name: str) -> Path:
        return self.place / name

    def path(self, name: str) -> Path:
        return self.place / name

    def holds(self, name: str) -> bool:
        """Whether the file is inside the folder when all links on the way to it are followed."""
        return Path(os.path.realpath(self.place / name)).is_relative_to(os.path.realpath(self.place))


class ListedImages:
    """The image files that a text file names, one a line; relative paths begin at the current folder."""

    def __init__(self, file: Path) -> None:
        self.place, self.index = file, file.with_name(file.name + INDEX_NAME)

    def listing(self) -> dict[str, str]:
        try:
            lines = self.place.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
        except OSError as error:
            raise DataError(f"{self.place} cannot be read ({error.strerror}): give a text file of paths") from None
        if any(b"\0" in line for line in lines):
            raise DataError(f"{self.place} is not a text file: give one with the path of an image on each line")
        names = sorted({os.path.abspath(os.fsdecode(line)) for line in lines if line.strip()})
        return {name: stamp_of(name) for name in names}

    def image(self, name: str) -> Path:
        return Path(name)

    def path(self, name: str) -> Path:
        return Path(name)

    def holds(self, name: str) -> bool:
        return True


class _Opened(NamedTuple):
    """A corpus as its manifest was at one moment; threads may replace it as a whole."""

    stamp: str
    """Of the manifest."""
    reader: ShardReader
    firsts: dict[str, tuple[int, int]]
    """Name of a shard -> its number, and the number of its first sample."""


class ShardImages:
    """The images of the shards that a manifest describes, in a local folder. Names are SHARD/KEY."""

    def __init__(self, manifest: Path) -> None:
        self.place, self._folder = manifest, manifest.parent
        self.index = self._folder / INDEX_NAME
        self._opened = self._open()
        self._lock = threading.Lock()

    def listing(self) -> dict[str, str]:
        if self._opened.stamp != stamp_of(str(self.place)):
            self._opened = self._open()
        found = {}
        for shard in self._opened.reader.manifest.shards:
            _, first = self._opened.firsts[shard.name]
            for number in range(first, first + shard.num_samples):
                found[f"{shard.name}/{sample_key(number)}"] = shard.checksum
        return found

    def image(self, name: str) -> Member:
        shard, _, key = name.rpartition("/")
        _, reader, firsts = self._opened
        if shard in firsts:
            number, first = firsts[shard]
            entry = reader.manifest.shards[number]
            if first <= int(key) < first + entry.num_samples:
                return Member(str(self.path(name)), entry.checksum, partial(self._bytes, reader, number, int(key) - first))
        raise DataError(f"{self.path(name)} is no longer there: search again")

    def path(self, name: str) -> Path:
        return self._folder / name

    def holds(self, name: str) -> bool:
        return True

    def _bytes(self, reader: ShardReader, shard: int, row: int) -> bytes:
        with self._lock:  # a reader is for one thread
            return reader.read(shard, row)[0]

    def _open(self) -> _Opened:
        stamp = stamp_of(str(self.place))
        Manifest.load(self._folder)  # its errors name the manifest, the reader's the folder
        reader = ShardReader(self._folder)
        firsts = accumulate(reader.counts, initial=0)
        names = (reader.shard_name(number) for number in range(len(reader.counts)))
        return _Opened(stamp, reader, dict(zip(names, enumerate(firsts), strict=False)))


def stamp_of(path: str) -> str:
    """Size and time of the last change of a file; empty if there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return ""
    return _stamp(facts)


def _stamp(facts: os.stat_result) -> str:
    return f"{facts.st_size}:{facts.st_mtime_ns}"


def _scan(folder: str, before: str) -> Iterator[tuple[str, str]]:
    """(path below the first folder, stamp) of the image files of a folder. Links to folders are not followed."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _scan(entry.path, f"{before}{entry.name}/")
            elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                yield before + entry.name, _stamp(entry.stat())
        except OSError:
            continue
