"""The decision on each image and caption: the reason it was dropped and the image kept in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.execution.stage_folder import read_array, read_list
from data_tools.files.storage import save_array, save_json

KEPT = 0
DUPLICATE = "duplicate: "
"""Prefix of reasons that drop an image whose captions move to the kept one."""
_EXAMPLES = 12
IMAGE_FILE, CAPTION_FILE = "picture", "caption"
_FILES = (IMAGE_FILE, "kept", "detail", CAPTION_FILE)  # names of the arrays' files


@dataclass
class Decisions:
    """Decisions on N images and C captions; a later reason never replaces the first."""

    image: NDArray[np.uint8]
    """(N,): 0 kept, else 1 + index into `reasons`."""
    kept: NDArray[np.int64]
    """(N,): row kept in its place; -1: none."""
    detail: NDArray[np.int16]
    """(N,): deciding Hamming distance; -1: none."""
    caption: NDArray[np.uint8]
    """(C,): like `image`; a caption of a dropped image has no reason of its own."""
    reasons: list[str]

    @classmethod
    def new(cls, num_rows: int, num_captions: int) -> Decisions:
        """All kept."""
        kept, detail = np.full(num_rows, -1, np.int64), np.full(num_rows, -1, np.int16)
        return cls(np.zeros(num_rows, np.uint8), kept, detail, np.zeros(num_captions, np.uint8), [])

    def code(self, reason: str) -> int:
        """The code of `reason`, which is added if it is new."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            if len(self.reasons) > 255:
                raise DataError("more than 255 different reasons: check the statuses in the sources' tables")
        return self.reasons.index(reason) + 1

    def drop_images(
        self, rows: NDArray[Any], reason: str, kept: NDArray[np.int64] | None = None, detail: NDArray[Any] | None = None
    ) -> int:
        """Drops those of `rows` (numbers, or a mask without `kept` and `detail`) that are still kept; returns their number."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        open_rows = self.image[rows] == KEPT
        self.image[rows[open_rows]] = self.code(reason)
        if kept is not None:
            self.kept[rows[open_rows]] = kept[open_rows]
        if detail is not None:
            self.detail[rows[open_rows]] = detail[open_rows]
        return int(open_rows.sum())

    def drop_captions(self, captions: NDArray[Any], reason: str) -> int:
        """Drops those of `captions` (numbers or a mask) that are still kept; returns their number."""
        captions = np.flatnonzero(captions) if captions.dtype == np.bool_ else captions
        fresh = captions[self.caption[captions] == KEPT]
        self.caption[fresh] = self.code(reason)
        return len(fresh)

    def drop_bare(self, owners: NDArray[np.int64], reason: str) -> int:
        """Drops images without any kept caption; `owners` (C,) is the image of each caption, as from `owners`, -1: none."""
        alive = owners[(self.caption == KEPT) & (owners >= 0)]
        bare = np.ones(len(self.image), np.bool_)
        bare[alive] = False
        return self.drop_images(bare, reason)

    def owners(self, caption_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Kept image of each caption, int64 (C,): its own, or the one of which its own is a duplicate; -1: none."""
        merged = np.array([False, *(reason.startswith(DUPLICATE) for reason in self.reasons)])
        own = np.arange(len(self.image))
        own[self.image != KEPT] = -1
        rows = np.flatnonzero(merged[self.image] & (self.kept >= 0))
        own[rows] = own[self.kept[rows]]
        owners: NDArray[np.int64] = own[caption_rows]
        return owners

    def follow(self) -> None:
        """Points `kept` to the finally kept row where the kept row was itself dropped as a duplicate."""
        rows = np.flatnonzero(self.kept >= 0)
        while True:
            further = self.kept[self.kept[rows]]
            if not (further >= 0).any():
                return
            self.kept[rows] = np.where(further >= 0, further, self.kept[rows])

    def counts(self) -> dict[str, dict[str, Any]]:
        """Number of images and captions dropped per reason, with a few rows as examples."""
        images = np.bincount(self.image, minlength=len(self.reasons) + 1)
        captions = np.bincount(self.caption, minlength=len(self.reasons) + 1)
        found = {}
        for number, reason in enumerate(self.reasons, start=1):
            rows = np.flatnonzero(self.image == number)
            spread = rows[np.linspace(0, len(rows) - 1, min(len(rows), _EXAMPLES)).astype(np.int64)] if len(rows) else rows
            found[reason] = {"pictures": int(images[number]), "captions": int(captions[number]), "examples": spread.tolist()}
        return found

    def save(self, folder: Path) -> None:
        """Writes the arrays into a stage's folder."""
        arrays: tuple[NDArray[Any], ...] = (self.image, self.kept, self.detail, self.caption)
        for name, array in zip(_FILES, arrays, strict=True):
            save_array(folder / f"{name}.npy", array)
        save_json(folder / "reasons.json", self.reasons)

    @classmethod
    def load(cls, folder: Path) -> Decisions:
        """Reads what `save` wrote. Raises DamagedStageError."""
        image, kept, detail, caption = (read_array(folder, f"{name}.npy") for name in _FILES)
        return cls(image, kept, detail, caption, read_list(folder, "reasons.json"))
