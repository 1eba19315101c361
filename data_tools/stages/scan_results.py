"""Reads columns of the scan over all chunks as numpy arrays, one at a time, so that reductions hold only what they use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_tools.content.images import COLOUR_BYTES
from data_tools.execution.stage_folder import DONE_NAME, DamagedStageError, load_stage, read_columns
from data_tools.matching.image_duplicates import quality_rank
from data_tools.stages.catalog import Catalog, Chunk


class Columns:
    """The scan of a working folder. Raises UserError if catalog or scan is not finished."""

    def __init__(self, work: Path) -> None:
        self.catalog = Catalog(work)
        self.stage = load_stage(work, "scan")
        summary = self.stage.summary
        self.num_rows = self.catalog.num_rows
        self.num_captions: int = summary["num_captions"]
        self.digest = self.stage.digest + summary["contents"]

    def tables(self, columns: list[str], *, captions: bool = False) -> Iterator[tuple[Chunk, pa.Table]]:
        """Yields each chunk with `columns` of its images or captions."""
        suffix = ".captions.parquet" if captions else ".parquet"
        for chunk in self.catalog.chunks:
            yield chunk, read_columns(self.stage.folder, f"{chunk.name}{suffix}", columns)

    def image(self, name: str) -> NDArray[Any]:
        """Numeric column `name`, one value per row."""
        return self._numbers(name, self.num_rows, captions=False)

    def caption(self, name: str) -> NDArray[Any]:
        """Numeric column `name`, one value per caption."""
        return self._numbers(name, self.num_captions, captions=True)

    def _numbers(self, name: str, size: int, *, captions: bool) -> NDArray[Any]:
        out: NDArray[Any] | None = None
        filled = 0
        for _, table in self.tables([name], captions=captions):
            values = table[name].to_numpy()
            if out is None:
                out = np.empty(size, values.dtype)
            if filled + len(values) <= size:
                out[filled : filled + len(values)] = values
            filled += len(values)
        if out is None or filled != size:
            raise DamagedStageError(self.stage.folder / DONE_NAME, f"it counts {size} rows, the files hold {filled}")
        return out

    def caption_rows(self) -> NDArray[np.int64]:
        """Row of each caption's listed image, int64 (num_captions,), ascending."""
        out = np.empty(self.num_captions, np.int64)
        filled = 0
        for chunk, table in self.tables(["row"], captions=True):
            out[filled : filled + len(table)] = table["row"].to_numpy().astype(np.int64) + chunk.first_row
            filled += len(table)
        return out

    def first_captions(self, caption_rows: NDArray[np.int64]) -> list[int]:
        """Number of the first caption of each chunk."""
        first: list[int] = np.searchsorted(caption_rows, [chunk.first_row for chunk in self.catalog.chunks]).tolist()
        return first

    def labels(self, name: str, *, captions: bool = False) -> tuple[NDArray[np.uint8], list[str]]:
        """Text column `name` with few distinct values: a code per row or caption, and the text of each code."""
        texts: dict[str, int] = {}
        codes: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        for _, table in self.tables([name], captions=captions):
            column = table[name].combine_chunks().dictionary_encode() if len(table) else None
            if column is None:
                continue
            if isinstance(column, pa.ChunkedArray):
                column = column.combine_chunks()
            lookup = np.array([texts.setdefault(text, min(len(texts), 255)) for text in column.dictionary.to_pylist()], np.uint8)
            codes.append(lookup[column.indices.to_numpy()])
        return np.concatenate(codes), list(texts)

    def parts(self, names: list[str], *, captions: bool = False) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Yields, for each chunk, the number of its first row or caption and its numeric columns by name."""
        first = 0
        for _, table in self.tables(names, captions=captions):
            yield first, {name: table[name].to_numpy() for name in names}
            first += len(table)

    def gather(self, rows: NDArray[np.int64], names: list[str]) -> dict[str, NDArray[Any]]:
        """The columns `names` of `rows` (ascending); `colours` is uint8 (len(rows), COLOUR_BYTES)."""
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        bounds = np.searchsorted(rows, [chunk.first_row for chunk in self.catalog.chunks] + [self.num_rows])
        for chunk, low, high in zip(self.catalog.chunks, bounds, bounds[1:], strict=False):
            if high > low or not found[names[0]]:  # the first chunk gives the types
                table = read_columns(self.stage.folder, f"{chunk.name}.parquet", names)
                for name in names:
                    values = colour_array(table[name]) if name == "colours" else table[name].to_numpy()
                    found[name].append(values[rows[low:high] - chunk.first_row])
        return {name: np.concatenate(arrays) for name, arrays in found.items()}

    def gather_captions(self, captions: NDArray[np.int64], names: list[str]) -> dict[str, NDArray[Any]]:
        """The columns `names` of `captions` (ascending)."""
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for first, columns in self.parts(names, captions=True):
            low, high = np.searchsorted(captions, [first, first + len(columns[names[0]])])
            for name in names:
                found[name].append(columns[name][captions[low:high] - first])
        return {name: np.concatenate(arrays) for name, arrays in found.items()}

    def quality(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rank of each of `rows` (ascending) among them, best first (`image_duplicates.quality_rank`)."""
        return quality_rank(**self.gather(rows, ["width", "height", "num_bytes"]))

    def blocks(self, count: int) -> list[range]:
        """At most `count` runs of chunk numbers that hold about equally many rows."""
        ends = np.array([chunk.first_row + chunk.num_rows for chunk in self.catalog.chunks])
        wanted = self.num_rows * np.arange(1, count + 1) / count
        bounds = [0, *np.unique(np.searchsorted(ends, wanted) + 1).tolist()]
        return [range(low, min(high, len(ends))) for low, high in pairwise(bounds)]

    def sources(self) -> tuple[NDArray[np.uint8], list[str]]:
        """Number of each row's source, and the sources' names."""
        names = list(self.catalog.sources)
        counts = [chunk.num_rows for chunk in self.catalog.chunks]
        return np.repeat(np.array([names.index(chunk.source) for chunk in self.catalog.chunks], np.uint8), counts), names


def colour_array(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """A fixed-size binary column as uint8 (rows, COLOUR_BYTES)."""
    chunks = [
        np.frombuffer(part.buffers()[1], np.uint8).reshape(-1, COLOUR_BYTES)[part.offset :][: len(part)] for part in column.chunks
    ]
    return np.concatenate([*chunks, np.zeros((0, COLOUR_BYTES), np.uint8)])
