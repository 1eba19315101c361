"""The images that a server shows: those of its folders, found by key and never by path, with features that follow changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from albef_ds.common.atomic_files import check_target
from albef_ds.common.errors import DataError, UserError
from albef_ds.common.progress import Progress, silent
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.search import INDEX_NAME, SUFFIXES, image_files, index_folder


@dataclass(frozen=True)
class Pictures:
    """The images at one moment; never changed."""

    keys: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    """Paths relative to their folder, as text that can be shown."""
    features: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """float32 (N, embed_dim), unit length."""
    rows: dict[str, int] = field(default_factory=dict)
    """Key -> row."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(name, reason) of files that cannot be read."""


class Gallery:
    """Images of folders and their features. One thread calls `refresh`; any may read `now`, `version` and `problem`.

    Args:
        model: has ITC features.
        folders: are searched with their subfolders. A link to a place outside its folder is left out.
        index_folder: keeps the index files; None: each in its own folder.

    Raises:
        UserError: a folder does not exist or has no image, or an index file cannot be written.
    """

    def __init__(self, model: AlbefModel, folders: Sequence[Path], index_folder: Path | None = None) -> None:
        self._model, self._folders = model, [Path(os.path.realpath(folder)) for folder in folders]
        self._index_folder = index_folder
        self._listings: list[dict[str, str]] = [{} for _ in folders]
        self._parts: list[Pictures] = [Pictures() for _ in folders]
        self.now = Pictures()
        self.version = 0
        """Grows whenever `now` changes."""
        self.problem = ""
        """Why the last refresh failed; empty if it did not."""
        check_folders(folders)
        for folder in self._folders:
            check_target(self._index_file(folder))

    def refresh(self, progress: Progress = silent) -> bool:
        """Encodes new and changed images, forgets deleted ones, and returns whether `now` changed."""
        changed, self.problem = False, ""
        for place, folder in enumerate(self._folders):
            try:
                listing = image_files(folder)
                if listing != self._listings[place]:
                    self._parts[place] = self._read(folder, progress) if listing else Pictures()
                    self._listings[place], changed = listing, True
            except (UserError, OSError) as error:
                self._parts[place], changed = Pictures(), changed or bool(self._parts[place].keys)
                self.problem = " ".join(str(error).split())
        if changed:
            self.now = _joined(self._parts)
            self.version += 1
        return changed

    def path(self, key: str) -> Path:
        """The file of an image. Raises `DataError` if there is none, or if it now leads out of its folder."""
        row = self.now.rows.get(key)
        if row is None:
            raise DataError("there is no such image: search again")
        path = self.now.paths[row]
        if not any(_inside(path, folder) for folder in self._folders):
            raise DataError("there is no such image: search again")
        return path

    def _read(self, folder: Path, progress: Progress) -> Pictures:
        index = index_folder(self._model, folder, self._index_file(folder), progress)
        kept = [row for row, name in enumerate(index.paths) if _inside(folder / name, folder)]
        names = [index.paths[row] for row in kept]
        unreadable = tuple((shown(name), reason) for name, reason in index.unreadable)
        keys = tuple(key_of(folder, name) for name in names)
        return Pictures(
            keys, tuple(folder / name for name in names), tuple(map(shown, names)), index.features[kept], {}, unreadable
        )

    def _index_file(self, folder: Path) -> Path:
        if self._index_folder is None:
            return folder / INDEX_NAME
        return self._index_folder / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.safetensors"


def check_folders(folders: Sequence[Path]) -> None:
    """Raises `DataError` if one of the folders does not exist or has no file that looks like an image."""
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder: give one with images")
        if not image_files(folder):
            raise DataError(f"{folder} holds no images: give a folder with {', '.join(SUFFIXES)} files")


def key_of(folder: Path, name: str) -> str:
    """The key of an image: a hash of folder and name, the same after a restart."""
    return hashlib.sha256(os.fsencode(folder) + b"\0" + os.fsencode(name)).hexdigest()[:24]


def shown(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 become a replacement character."""
    return os.fsencode(name).decode("utf-8", "replace")


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(folder)


def _joined(parts: Sequence[Pictures]) -> Pictures:
    filled = [part for part in parts if part.keys]
    keys = tuple(key for part in filled for key in part.keys)
    return Pictures(
        keys,
        tuple(path for part in filled for path in part.paths),
        tuple(name for part in filled for name in part.names),
        torch.cat([part.features for part in filled]) if filled else torch.zeros(0, 0),
        {key: row for row, key in enumerate(keys)},
        tuple(entry for part in parts for entry in part.unreadable),
    )
