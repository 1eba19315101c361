"""Approximate search by a graph of neighbours (HNSW, package usearch), kept in a file beside the exact features.

The graph covers the rows of the file of features up to some row. Later ones are searched exactly until they are a tenth of all,
and are then added. How often it finds what exact search finds is measured on some of the images when it is made (`recall`).
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from albef_ds.common.atomic_files import temporary_name, write_json
from albef_ds.common.errors import MachineError
from albef_ds.common.progress import Progress, silent
from albef_ds.inference.index.nearest import nearest
from albef_ds.inference.index.store import Table, written

SUFFIX = ".hnsw"
RECALL_AT = 64
"""Recall is measured among this many images."""
_QUERIES = 100
_CHUNK = 4_096
_CONNECTIVITY, _EXPANSION_ADD, _EXPANSION_SEARCH = 16, 128, 256
_ROUNDING = 1e-6
"""Products of the same features differ by less than this between batches of other sizes."""
_TAIL = 0.1
"""Largest share of rows that are searched exactly because the graph does not have them."""


@dataclass(frozen=True)
class _Facts:
    """What the JSON file beside a graph says."""

    graph: str
    """File name of the graph."""
    num_bytes: int
    """Its size: the package does not survive every file that was cut off."""
    rows_file: str
    rows: int
    recall: float


class Approximate:
    """The graph over the rows of a table, made or extended by `of`."""

    def __init__(self, graph: Any, facts: _Facts) -> None:
        self._graph, self._facts = graph, facts

    @property
    def recall(self) -> float:
        """Share of the RECALL_AT most similar images that are found, measured with images as queries: 0 to 1."""
        return self._facts.recall

    @classmethod
    def of(cls, table: Table, path: Path, progress: Progress = silent) -> Approximate:
        """The graph of `table`, from the files whose names begin with `path`, which are written or extended if necessary.

        Raises `MachineError` if the package usearch is missing or the disk does not take the files.
        """
        library = _usearch()
        with written(_facts_file(path), path):
            facts = _facts(path)
            if facts is not None and facts.rows_file == table.file and facts.rows >= (1 - _TAIL) * len(table.features):
                graph = _restored(library, path, facts, view=True)
                if graph is not None:
                    return cls(graph, facts)
            return cls._made(library, table, path, facts, progress)

    @classmethod
    def _made(cls, library: Any, table: Table, path: Path, old: _Facts | None, progress: Progress) -> Approximate:
        graph, start, total = None, 0, len(table.features)
        if old is not None and old.rows_file == table.file:
            graph, start = _restored(library, path, old, view=False), old.rows
        if graph is None:
            options = {"connectivity": _CONNECTIVITY, "expansion_add": _EXPANSION_ADD, "expansion_search": _EXPANSION_SEARCH}
            graph, start = library.Index(ndim=table.features.shape[1], metric="ip", dtype="f16", **options), 0
        graph.expansion_search = _EXPANSION_SEARCH
        for first in range(start, total, _CHUNK):
            last = min(first + _CHUNK, total)
            graph.add(np.arange(first, last, dtype=np.uint64), np.asarray(table.features[first:last]))
            progress("graph of neighbours", last, total)
        name = f"{path.name}.{os.urandom(6).hex()}{SUFFIX}"
        scratch = temporary_name(path)
        graph.save(str(scratch))
        os.replace(scratch, path.with_name(name))
        facts = _Facts(name, path.with_name(name).stat().st_size, table.file, total, 0.0)
        facts = replace(facts, recall=cls(graph, facts).measured(table))
        write_json(_facts_file(path), asdict(facts))
        if old is not None:
            with contextlib.suppress(OSError):
                path.with_name(old.graph).unlink()
        return cls(graph, facts)

    def nearest(self, table: Table, queries: Tensor, k: int) -> list[list[tuple[int, float]]]:
        """As `nearest.nearest`: among the images that the graph finds and the rows that it does not have. Products are exact."""
        found = []
        for query, tail in zip(queries, nearest(table, queries, k, self._facts.rows), strict=True):
            rows = self._rows(query, k, table)
            products = torch.from_numpy(table.features[rows]) @ query
            best = list(zip(table.places[rows].tolist(), products.tolist(), strict=True))
            found.append(sorted(best + tail, key=lambda item: (-item[1], item[0]))[:k])
        return found

    def measured(self, table: Table) -> float:
        """Recall with rows at equal distances as queries, among RECALL_AT images or a tenth of all."""
        k = min(RECALL_AT, max(len(table.rows) // 10, 1))
        step = max(len(table.rows) // _QUERIES, 1)
        queries = torch.from_numpy(table.features[table.rows[::step][:_QUERIES]])
        return recall(self.nearest(table, queries, k), nearest(table, queries, k))

    def _rows(self, query: Tensor, k: int, table: Table) -> NDArray[np.int64]:
        """Rows of images that the graph finds; where it finds rows without an image, more are asked for."""
        asked = k
        while True:
            matches = self._graph.search(query.numpy(), min(asked, self._facts.rows))
            rows: NDArray[np.int64] = matches.keys[: len(matches)].astype(np.int64)
            rows = rows[rows < len(table.places)]  # another process may have added images and extended the graph
            rows = rows[table.places[rows] >= 0]
            if len(rows) >= k or asked >= self._facts.rows:
                return rows[:k]
            asked *= 4


def recall(found: list[list[tuple[int, float]]], exact: list[list[tuple[int, float]]]) -> float:
    """Share of the images of `exact` that are in `found`, or instead of which it has images that are as similar (copies)."""
    hits = 0
    for row, right in zip(found, exact, strict=True):
        least = min((similarity for _, similarity in right), default=0.0) - _ROUNDING
        hits += min(sum(similarity >= least for _, similarity in row), len(right))
    return hits / max(sum(map(len, exact)), 1)


def is_installed() -> bool:
    """Whether the package usearch is there; it is not imported."""
    return find_spec("usearch") is not None


def require() -> None:
    """Raises `MachineError` if the package usearch is missing."""
    _usearch()


def _usearch() -> Any:
    try:
        import usearch.index as library  # optional package
    except ImportError:
        raise MachineError("usearch is not installed: run `pip install albef-ds[ann]`, or search exactly") from None
    return library


def _restored(library: Any, path: Path, facts: _Facts, *, view: bool) -> Any:
    """The graph, memory-mapped for `view`; None if there is none or a damaged one, which is made anew."""
    file = path.with_name(facts.graph)
    with contextlib.suppress(RuntimeError, ValueError, OSError):
        if file.stat().st_size == facts.num_bytes:
            return library.Index.restore(str(file), view=view)
    return None


def _facts_file(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX + ".json")


def _facts(path: Path) -> _Facts | None:
    """None if there is no graph, or a damaged record of it."""
    try:
        return _Facts(**json.loads(_facts_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
