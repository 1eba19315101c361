"""The features and scores of a model for the rows of the catalog whose sources are corpora with stored features.

A source of kind `shards` lists the samples of its corpus in their order, so sample and row correspond by number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.execution.stage_folder import SETTINGS_NAME, DamagedStageError, read_object
from data_tools.features.stored import StoredFeatures
from data_tools.matching.clusters import clusters
from data_tools.stages.scan_results import Columns

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class PairScores:
    """Scores of every caption with its image, float32 (num_captions,); NaN: none."""

    itm: F32
    itc: F32


class RowFeatures:
    """What `albef-data embed` stored under `name` beside each corpus among the sources.

    Raises DataError if no source is a corpus, or one of them has no such features, or other samples than the catalog.
    """

    def __init__(self, columns: Columns, name: str) -> None:
        self._columns = columns
        self._captions = np.bincount(columns.caption_rows(), minlength=columns.num_rows)
        codes, names = columns.sources()
        self._found: list[tuple[I64, StoredFeatures]] = []
        for source in _sources(columns):
            if source["kind"] == "shards":
                rows = np.flatnonzero(codes == names.index(str(source["name"])))
                self._found.append((rows, StoredFeatures(Path(str(source["path"])), name)))
        if not self._found:
            raise DataError(
                f"no source is a corpus with features {name}: give one as NAME=shards:FOLDER after `albef-data embed`"
            )
        for rows, stored in self._found:
            if len(rows) != stored.num_samples:
                raise _other(stored)

    @property
    def digest(self) -> str:
        """Changes with the stored features."""
        return "+".join(stored.digest for _, stored in self._found)

    def scores(self) -> PairScores:
        """The scores of all captions; NaN for those of sources without features, and where one of the pair cannot be read."""
        found = PairScores(*(np.full(self._columns.num_captions, np.nan, np.float32) for _ in range(2)))
        for rows, stored in self._found:
            scores = stored.scores()
            if not np.array_equal(scores["captions"], self._captions[rows]):
                raise _other(stored)
            first = int(self._captions[: rows[0]].sum())
            for name, values in (("itm", found.itm), ("itc", found.itc)):
                values[first : first + stored.num_captions] = scores[name]
        return found

    def write_images(self, path: Path) -> None:
        """Writes the images' features, float16 (num_rows, D), as `.npy`; rows without features are zeros."""
        widths = {stored.width for _, stored in self._found}
        if len(widths) > 1:
            listed = " and ".join(map(str, sorted(widths)))
            raise DataError(f"the corpora have features of {listed} numbers: embed them with one model")
        out = np.lib.format.open_memmap(path, "w+", np.float16, (self._columns.num_rows, widths.pop()))
        for rows, stored in self._found:
            first = int(rows[0])
            for arrays in stored.parts():
                out[first : first + len(arrays["images"])] = arrays["images"]
                first += len(arrays["images"])
        out.flush()

    def image_clusters(self, path: Path, count: int) -> I64:
        """Cluster of each row's image among `count`, int64 (num_rows,); -1: no features. `path` is used for a moment."""
        self.write_images(path)
        try:
            features = np.load(path, mmap_mode="r")
            rows = np.flatnonzero(features.any(axis=1))
            labels = np.full(len(features), -1, np.int64)
            labels[rows] = clusters(rows, features, count, seed=0)
        finally:
            path.unlink()
        return labels


def _sources(columns: Columns) -> list[dict[str, object]]:
    folder = columns.catalog.stage.folder
    try:
        return [dict(source) for source in read_object(folder, SETTINGS_NAME)["settings"]["sources"]]
    except (LookupError, TypeError, ValueError):
        raise DamagedStageError(folder / SETTINGS_NAME, "it lacks the sources") from None


def _other(stored: StoredFeatures) -> DataError:
    return DataError(f"{stored.folder} has the features of other samples than the catalog: make both again from {stored.corpus}")
