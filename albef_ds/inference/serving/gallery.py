"""The images that a server shows: those of its sources, found by key and never by path, with features that follow changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from albef_ds.common.atomic_files import check_target
from albef_ds.common.errors import DataError, UserError
from albef_ds.common.progress import Progress, silent
from albef_ds.inference.inputs import Member
from albef_ds.inference.kept_tokens import KeptTokens
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.search import Index, index_images, kept_tokens, with_approximate
from albef_ds.inference.sources import SUFFIXES, Source, source_of


@dataclass(frozen=True)
class Part:
    """The images of one source at one moment."""

    index: Index | None = None
    keys: tuple[str, ...] = ()
    """Of the images of the index; empty for one that is not shown."""
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pictures:
    """The images at one moment; never changed. A place is a number among all of them."""

    parts: tuple[Part, ...] = ()

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of each image."""
        return tuple(key for part in self.parts for key in part.keys)

    @cached_property
    def places(self) -> dict[str, int]:
        """Key -> place of the images that are shown."""
        return {key: place for place, key in enumerate(self.keys) if key}

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of files that cannot be read."""
        return tuple(entry for part in self.parts for entry in part.unreadable)

    @property
    def recall(self) -> float | None:
        """The least recall of the sources that are searched approximately; None if there is none."""
        found = [part.index.approximate.recall for part in self.parts if part.index and part.index.approximate]
        return min(found) if found else None

    def nearest(self, query: Tensor, k: int) -> list[tuple[int, float]]:
        """(place, similarity) of the `k` most similar ones, best first."""
        found, first = [], 0
        for part in self.parts:
            if part.index is not None and part.keys:
                hidden = part.keys.count("")
                [near] = part.index.nearest(query[None], k + hidden)
                found += [(first + place, similarity) for place, similarity in near if part.keys[place]]
            first += len(part.keys)
        return sorted(found, key=lambda item: (-item[1], item[0]))[:k]

    def feature(self, place: int) -> Tensor:
        """float32 (embed_dim,), unit length."""
        index, row = self._at(place)
        return torch.from_numpy(index.table.features[index.table.rows[row]])

    def image(self, place: int) -> Path | Member | None:
        """What the model reads; None if the file now leads out of its folder."""
        index, row = self._at(place)
        return index.source.image(index.paths[row]) if index.source.holds(index.paths[row]) else None

    def name(self, place: int) -> str:
        """The path below its folder, as text that can be shown."""
        index, row = self._at(place)
        return shown(index.paths[row])

    def _at(self, place: int) -> tuple[Index, int]:
        for part in self.parts:
            if place < len(part.keys) and part.index is not None:
                return part.index, place
            place -= len(part.keys)
        raise IndexError(place)


class Gallery:
    """Images of folders, lists and shards, and their features. One thread calls `refresh`; any may read the other members.

    Args:
        model: has ITC features.
        places: folders, which are searched with their subfolders, text files of paths, or manifests of shards. A link to a place
            outside its folder is left out.
        index_folder: keeps the index files; None: each beside its images.
        approximate_above: number of images of a source above which it is searched approximately.

    Raises:
        UserError: a folder does not exist or has no image, or an index file cannot be written.
    """

    def __init__(
        self,
        model: AlbefModel,
        places: Sequence[Path],
        index_folder: Path | None = None,
        approximate_above: int | None = None,
    ) -> None:
        self._model, self._sources = model, check_places([Path(os.path.realpath(place)) for place in places])
        self._index_folder, self._above = index_folder, approximate_above
        self._listings: list[dict[str, str]] = [{} for _ in places]
        self._parts: list[Part] = [Part() for _ in places]
        self.now = Pictures()
        self.version = 0
        """Grows whenever `now` changes."""
        self.problem = ""
        """Why the last refresh failed; empty if it did not."""
        for source in self._sources:
            check_target(self._index_file(source))

    def refresh(self, progress: Progress = silent) -> bool:
        """Encodes new and changed images, forgets deleted ones, and returns whether `now` changed.

        While images are encoded, `now` has those that are indexed already.
        """
        changed, problem = False, ""
        for place, source in enumerate(self._sources):
            try:
                listing = source.listing()
                if listing != self._listings[place]:
                    self._show(place, self._read(place, progress) if listing else Part())
                    self._listings[place], changed = listing, True
            except (UserError, OSError) as error:
                if self._parts[place].keys:
                    self._show(place, Part())
                    self._listings[place], changed = {}, True
                problem = " ".join(str(error).split())
        self.problem = problem
        return changed

    def path(self, key: str) -> Path | Member:
        """The image of a key. Raises `DataError` if there is none, or if its file now leads out of its folder."""
        now = self.now
        place = now.places.get(key)
        image = None if place is None else now.image(place)
        if image is None:
            raise DataError("there is no such image: search again")
        return image

    def kept(self) -> KeptTokens | None:
        """The tokens of judged images, kept where `albef-ds search` keeps them for the first source."""
        index = next((part.index for part in self._parts if part.index is not None), None)
        return None if index is None else kept_tokens(self._model, index)

    def _read(self, place: int, progress: Progress) -> Part:
        source = self._sources[place]

        def partial(index: Index) -> None:
            if len(index.paths) > len(self._parts[place].keys):
                self._show(place, self._part(index))

        index = index_images(self._model, source, self._index_file(source), progress, partial)
        if self._above is not None:
            index = with_approximate(index, self._above, progress)
        return self._part(index)

    def _part(self, index: Index) -> Part:
        source = index.source
        keys = tuple(
            "" if os.path.islink(source.path(name)) and not source.holds(name) else key_of(source.place, name)
            for name in index.paths
        )
        return Part(index, keys, tuple((shown(name), reason) for name, reason in index.unreadable))

    def _show(self, place: int, part: Part) -> None:
        self._parts[place] = part
        self.now = Pictures(tuple(self._parts))
        self.version += 1

    def _index_file(self, source: Source) -> Path:
        if self._index_folder is None:
            return source.index
        return self._index_folder / hashlib.sha256(os.fsencode(source.place)).hexdigest()[:16]


def check_places(places: Sequence[Path]) -> list[Source]:
    """The sources. Raises `DataError` if one of the places does not exist or has no file that looks like an image."""
    found = []
    for place in places:
        source = source_of(place)
        if not source.listing():
            raise DataError(f"{place} holds no images: give a folder with {', '.join(SUFFIXES)} files")
        found.append(source)
    return found


def key_of(folder: Path, name: str) -> str:
    """The key of an image: a hash of folder and name, the same after a restart."""
    return hashlib.sha256(os.fsencode(folder) + b"\0" + os.fsencode(name)).hexdigest()[:24]


def shown(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 become a replacement character."""
    return os.fsencode(name).decode("utf-8", "replace")
