"""The place of a corpus that is written: a local folder, or the objects below a URL.

In an object store every object appears whole or not at all, and the manifest last, so a killed run leaves no corpus that could be
taken for complete. A shard is written to a local folder first, uploaded, and removed there.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from albef_ds.common.atomic_files import write_file
from albef_ds.common.errors import MachineError
from albef_ds.common.urls import is_url
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest, ShardEntry, index_name
from albef_ds.data.store.objects import Store, abort_uploads
from data_tools.files.shard_writer import (
    OWN_FILE,
    WRITING_NAME,
    Sample,
    finish_folder,
    open_folder,
    shard_files,
    whole_manifest,
    write_shard,
)
from data_tools.files.storage import writing_to

Place = Path | str
"""A local folder, or a URL."""


def destination_of(place: Place, staging: Path) -> FolderDestination | StoreDestination:
    """Returns the destination at `place`; shards on their way to a store are in `staging`. Raises `UserError` as `Store`."""
    return StoreDestination(str(place), staging) if is_url(str(place)) else FolderDestination(Path(place))


class FolderDestination:
    """A corpus in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def identity(self) -> str:
        """Returns the name by which a stage knows its destination again."""
        return str(self.folder.resolve())

    def manifest(self) -> Manifest | None:
        """Returns the manifest, None if there is none. Raises `DataError` if it is damaged."""
        return Manifest.load(self.folder) if (self.folder / MANIFEST_NAME).exists() else None

    def sizes(self) -> dict[str, int]:
        """Returns the size of every file."""
        if not self.folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.is_file()}

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file. Raises `OSError` or `UserError`."""
        return (self.folder / name).read_bytes()

    def open(self) -> None:
        """Marks the place as unfinished. Raises `MachineError` as `open_folder`."""
        open_folder(self.folder)

    def write_shard(self, number: int, first_sample: int, samples: Iterable[Sample]) -> ShardEntry:
        """Writes shard `number`, as `shard_writer.write_shard`."""
        with writing_to(self.folder):
            return write_shard(self.folder, number, first_sample, samples)

    def finish(self, shards: Iterable[ShardEntry], info: dict[str, Any], beside: dict[str, Path]) -> Manifest:
        """Writes the files `beside`, and then the manifest; removes what an interrupted run left. Raises as `finish_folder`."""
        with writing_to(self.folder):
            (self.folder / WRITING_NAME).touch()
            for name, path in beside.items():
                write_file(self.folder / name, path.read_bytes(), durable=True)
            return finish_folder(self.folder, shards, info)

    def unmark(self) -> None:
        """Removes the mark of an unfinished corpus."""
        (self.folder / WRITING_NAME).unlink(missing_ok=True)


class StoreDestination:
    """A corpus in an object store; `staging` is a local folder of the working folder. Picklable."""

    def __init__(self, url: str, staging: Path) -> None:
        self.store, self.staging = Store(url), staging
        if urlsplit(url).scheme in ("http", "https"):
            raise MachineError(f"{url} cannot be written to: give a folder, s3://, gs:// or az://")

    def __str__(self) -> str:
        return self.store.url

    @property
    def identity(self) -> str:
        """Returns the name by which a stage knows its destination again."""
        return self.store.url

    def manifest(self) -> Manifest | None:
        """Returns the manifest, None if there is none. Raises `DataError` if it is damaged."""
        if MANIFEST_NAME not in self.sizes():
            return None
        return Manifest.parse(self.store.read(MANIFEST_NAME), self.store.address(MANIFEST_NAME))

    def sizes(self) -> dict[str, int]:
        """Returns the size of every object."""
        return self.store.sizes() or {}

    def read(self, name: str) -> bytes:
        """Returns the bytes of an object. Raises `DataError`."""
        return self.store.read(name)

    def open(self) -> None:
        """Marks the place as unfinished. Raises `MachineError` as `open_folder`."""
        found = self.sizes()
        if MANIFEST_NAME in found:
            raise MachineError(f"{self} already holds a corpus: give a new URL, or add to it with `albef-data append`")
        if WRITING_NAME not in found:
            if any(name.endswith(".tar") for name in found):
                raise MachineError(f"{self} holds tars of another origin: give a new URL")
            self.store.put_bytes(WRITING_NAME, b"unfinished\n")

    def write_shard(self, number: int, first_sample: int, samples: Iterable[Sample]) -> ShardEntry:
        """Writes shard `number` locally and uploads it, the tar last. Raises as `shard_writer.write_shard` and `put`."""
        with writing_to(self.staging):
            self.staging.mkdir(parents=True, exist_ok=True)
            entry = write_shard(self.staging, number, first_sample, samples)
        for name in (index_name(entry.name), entry.name):
            self.put(name, self.staging / name)
            (self.staging / name).unlink()
        return entry

    def finish(self, shards: Iterable[ShardEntry], info: dict[str, Any], beside: dict[str, Path]) -> Manifest:
        """Uploads the files `beside`, and then the manifest; removes what interrupted runs left. Raises as `finish_folder`."""
        manifest = whole_manifest(shards, info, self)
        listed = shard_files(manifest)
        self.store.attempts("", "cleaned", lambda system, root: abort_uploads(system, f"{root}/"))
        for name in self.sizes():
            if name not in listed and OWN_FILE.fullmatch(name):
                self.store.remove(name)
        for name, path in beside.items():
            self.put(name, path)
        self.put_manifest(manifest)
        self.store.remove(WRITING_NAME)
        return manifest

    def put_manifest(self, manifest: Manifest) -> None:
        """Uploads `manifest`."""
        with tempfile.TemporaryDirectory() as folder:
            manifest.save(Path(folder))
            self.put(MANIFEST_NAME, Path(folder) / MANIFEST_NAME)

    def unmark(self) -> None:
        """Removes the mark of an unfinished corpus."""
        if WRITING_NAME in self.sizes():
            self.store.remove(WRITING_NAME)

    @contextlib.contextmanager
    def local_copy(self, *names: str) -> Iterator[Path]:
        """Yields a temporary local folder with the objects `names`, as far as they are there. Raises `DataError`."""
        with tempfile.TemporaryDirectory(prefix="albef-data-") as folder:
            for name in names:
                self.store.get(name, Path(folder) / name)
            yield Path(folder)

    def put(self, name: str, path: Path) -> None:
        """Uploads the file at `path` as object `name`. Raises `DataError`."""
        self.store.put(name, path)
