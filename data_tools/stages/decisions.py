"""What was decided about each picture and each caption: the reason it was dropped and what was kept in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.files.storage import load_json, save_array, save_json

KEPT = 0
DUPLICATE = "duplicate: "
"""Reasons that start so drop a picture whose captions live on with the kept one."""
_EXAMPLES = 12


@dataclass
class Decisions:
    """Decisions over N pictures and C captions; a first reason is never replaced by a later one."""

    picture: NDArray[np.uint8]
    """(N,): 0 kept, else 1 + index into `reasons`."""
    kept: NDArray[np.int64]
    """(N,): row that was kept in its place; -1: none."""
    detail: NDArray[np.int16]
    """(N,): Hamming distance that decided, -1: none."""
    caption: NDArray[np.uint8]
    """(C,): like `picture`; a caption of a dropped picture has no reason of its own."""
    reasons: list[str]

    @classmethod
    def new(cls, num_rows: int, num_captions: int) -> Decisions:
        """All kept."""
        return cls(
            np.zeros(num_rows, np.uint8),
            np.full(num_rows, -1, np.int64),
            np.full(num_rows, -1, np.int16),
            np.zeros(num_captions, np.uint8),
            [],
        )

    def code(self, reason: str) -> int:
        """The code that stands for `reason`."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            if len(self.reasons) > 255:
                raise DataError("more than 255 different reasons: check the statuses in the sources' tables")
        return self.reasons.index(reason) + 1

    def drop_pictures(
        self, rows: NDArray[Any], reason: str, kept: NDArray[np.int64] | None = None, detail: NDArray[Any] | None = None
    ) -> int:
        """Drop `rows` (numbers, or a mask without `kept` and `detail`) that are still kept; return how many were."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        open_rows = self.picture[rows] == KEPT
        self.picture[rows[open_rows]] = self.code(reason)
        if kept is not None:
            self.kept[rows[open_rows]] = kept[open_rows]
        if detail is not None:
            self.detail[rows[open_rows]] = detail[open_rows]
        return int(open_rows.sum())

    def drop_captions(self, captions: NDArray[Any], reason: str) -> int:
        """Drop `captions` (numbers or a mask) that are still kept; return how many that were."""
        captions = np.flatnonzero(captions) if captions.dtype == np.bool_ else captions
        fresh = captions[self.caption[captions] == KEPT]
        self.caption[fresh] = self.code(reason)
        return len(fresh)

    def drop_bare(self, owners: NDArray[np.int64], reason: str) -> int:
        """Drop pictures without any kept caption; `owners` (C,) is the picture each caption now belongs to, -1: none."""
        alive = owners[(self.caption == KEPT) & (owners >= 0)]
        bare = np.ones(len(self.picture), np.bool_)
        bare[alive] = False
        return self.drop_pictures(bare, reason)

    def owners(self, caption_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The kept picture each caption belongs to, int64 (C,): its own, or the one its own is a duplicate of; -1: none."""
        merged = np.array([False, *(reason.startswith(DUPLICATE) for reason in self.reasons)])
        own = np.where(self.picture == KEPT, np.arange(len(self.picture)), -1)
        via = np.where(merged[self.picture] & (self.kept >= 0), own[self.kept], own)
        owners: NDArray[np.int64] = via[caption_rows]
        return owners

    def follow(self) -> None:
        """Make `kept` name the row that is kept at last where a kept one was dropped as a duplicate itself."""
        while True:
            has = self.kept >= 0
            further = np.where(has, self.kept[np.maximum(self.kept, 0)], -1)
            if not (further >= 0).any():
                return
            self.kept = np.where(further >= 0, further, self.kept)

    def counts(self) -> dict[str, dict[str, Any]]:
        """Per reason: how many pictures and captions it dropped, and a few rows as examples."""
        pictures = np.bincount(self.picture, minlength=len(self.reasons) + 1)
        captions = np.bincount(self.caption, minlength=len(self.reasons) + 1)
        found = {}
        for number, reason in enumerate(self.reasons, start=1):
            rows = np.flatnonzero(self.picture == number)
            spread = rows[np.linspace(0, len(rows) - 1, min(len(rows), _EXAMPLES)).astype(np.int64)] if len(rows) else rows
            found[reason] = {"pictures": int(pictures[number]), "captions": int(captions[number]), "examples": spread.tolist()}
        return found

    def save(self, folder: Path) -> None:
        """Write the arrays into a stage's folder."""
        for name in ("picture", "kept", "detail", "caption"):
            save_array(folder / f"{name}.npy", getattr(self, name))
        save_json(folder / "reasons.json", self.reasons)

    @classmethod
    def load(cls, folder: Path) -> Decisions:
        """What `save` wrote."""
        arrays = [np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("picture", "kept", "detail", "caption")]
        return cls(arrays[0], arrays[1], arrays[2], arrays[3], load_json(folder / "reasons.json"))
