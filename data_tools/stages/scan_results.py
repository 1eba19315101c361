"""Reads columns of the scan over all chunks as numpy arrays, one at a time, so that reductions hold only what they use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_tools.content.images import COLOUR_BYTES
from data_tools.execution.stage_folder import DONE_NAME, DamagedStageError, load_stage, read_columns
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

    def colours(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Colour signatures of `rows` (ascending), uint8 (len(rows), COLOUR_BYTES)."""
        out = np.empty((len(rows), COLOUR_BYTES), np.uint8)
        bounds = np.searchsorted(rows, [chunk.first_row for chunk in self.catalog.chunks] + [self.num_rows])
        for number, chunk in enumerate(self.catalog.chunks):
            low, high = bounds[number], bounds[number + 1]
            if high > low:
                table = read_columns(self.stage.folder, f"{chunk.name}.parquet", ["colours"])
                out[low:high] = colour_array(table["colours"])[rows[low:high] - chunk.first_row]
        return out

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
