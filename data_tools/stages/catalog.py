"""The catalog: every listed image of every source as one row, in numbered Parquet chunks.

Rows are numbered over all chunks; later stages identify an image by that number. The catalog opens no image: the scan finds
missing and broken files.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from albef_ds.common.errors import ConfigError, DataError
from data_tools.config import CHUNK_ROWS
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.execution.stage_folder import (
    DONE_NAME,
    DamagedStageError,
    StageFolder,
    load_stage,
    open_stage,
    read_columns,
    read_object,
)
from data_tools.files.storage import is_url, save_json, save_table
from data_tools.readers import reader_for
from data_tools.readers.source import Problems, Record, SourceSpec

_TEXT, _NUMBER = pa.string(), pa.int64()
SCHEMA = pa.schema(
    [
        *(("id", _TEXT), ("path", _TEXT), ("offset", _NUMBER), ("size", _NUMBER), ("captions", pa.list_(_TEXT))),
        *(("image_id", _TEXT), ("missing", _TEXT), ("extra", _TEXT)),
    ]
)


@dataclass(frozen=True)
class Chunk:
    """A file of the catalog: rows `first_row` to `first_row + num_rows`, all of `source`."""

    name: str
    source: str
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class _Task:
    number: int
    part: str
    spec: SourceSpec
    folder: Path
    chunk_rows: int


def build_catalog(
    work: Path, specs: list[SourceSpec], parallel: Parallel, *, chunk_rows: int = CHUNK_ROWS, restart: bool = False
) -> StageFolder | None:
    """Reads every source into `work/catalog`; None while other array tasks have not done their share.

    Raises UserError if a source is wrong or broken, two share a name, nothing is listed, or the stage has other settings.
    """
    names = [spec.name for spec in specs]
    if not specs or len(set(names)) < len(names):
        raise ConfigError(f"sources are {', '.join(names) or 'not given'}: give at least one, each under its own name")
    if chunk_rows < 1:
        raise ConfigError(f"chunk_rows is {chunk_rows}: give 1 or more")
    parts = [(spec, part) for spec in specs for part in reader_for(spec).parts(spec)]
    settings = {
        "sources": [asdict(spec) for spec in specs],
        "files": [[part, *_state(part)] for _, part in parts],
        "chunk_rows": chunk_rows,
    }
    stage = open_stage(work, "catalog", settings, is_map=True, restart=restart)
    if stage.done:
        return stage
    tasks = [_Task(number, part, spec, stage.folder, chunk_rows) for number, (spec, part) in enumerate(parts)]
    run_tasks(_read_part, tasks, parallel, "catalog", unit="file", is_done=lambda task: _marker(task).exists())
    if not all(_marker(task).exists() for task in tasks):
        return None
    stage.finish(_summary(specs, tasks))
    return stage


def _state(part: str) -> tuple[int, int]:
    if is_url(part) or not os.path.isfile(part):
        return (-1, -1)
    found = os.stat(part)
    return found.st_size, found.st_mtime_ns


def _marker(task: _Task) -> Path:
    return task.folder / f"{task.number:05d}.json"


def _read_part(task: _Task) -> int:
    problems = Problems()
    try:
        records = reader_for(task.spec).read(task.spec, task.part, problems)
        sizes: list[int] = []
        while rows := [checked(record, problems) for record in islice(records, task.chunk_rows)]:
            save_table(task.folder / f"{task.number:05d}-{len(sizes):05d}.parquet", to_table(rows))
            sizes.append(len(rows))
    except OSError as error:
        raise DataError(f"{task.part} of source {task.spec.name} cannot be read ({error}): check path and permissions") from None
    save_json(_marker(task), {"chunks": sizes, "problems": problems.counts, "examples": problems.examples})
    return sum(sizes)


def checked(record: Record, problems: Problems) -> Record:
    """`record`, marked as missing if no file can have its path; captions that are not Unicode are counted."""
    if not all(map(_is_valid, record.captions)):
        problems.add("caption with a lone surrogate, which is no Unicode", record.id)
    if "\0" not in record.path and _is_valid(record.path):
        return record
    return record._replace(missing="path with a NUL" if "\0" in record.path else "path that is not UTF-8")


def _is_valid(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def to_table(records: list[Record]) -> pa.Table:
    """`records` as a table of SCHEMA; lone surrogates, which are not valid Unicode, become question marks."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for record in records:
        for name, value in zip(Record._fields, record, strict=True):
            columns[name].append(value)
    columns["extra"] = [json.dumps(dict(extra), sort_keys=True) if extra else "" for extra in columns["extra"]]
    try:
        return pa.table(columns, schema=SCHEMA)
    except UnicodeEncodeError:
        for name in ("id", "path", "image_id", "missing"):
            columns[name] = [_valid(text) for text in columns[name]]
        columns["captions"] = [[_valid(text) for text in texts] for texts in columns["captions"]]
        return pa.table(columns, schema=SCHEMA)


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _summary(specs: list[SourceSpec], tasks: list[_Task]) -> dict[str, Any]:
    chunks, first_row = [], 0
    sources: dict[str, dict[str, Any]] = {
        spec.name: {"kind": spec.kind, "listed": 0, "problems": {}, "examples": {}} for spec in specs
    }
    for task in tasks:
        marker, source = read_object(task.folder, _marker(task).name), sources[task.spec.name]
        try:
            for number, rows in enumerate(marker["chunks"]):
                name = f"{task.number:05d}-{number:05d}"
                chunks.append({"name": name, "source": task.spec.name, "first_row": first_row, "num_rows": rows})
                first_row += rows
            source["listed"] += sum(marker["chunks"])
            for reason, count in marker["problems"].items():
                source["problems"][reason] = source["problems"].get(reason, 0) + count
                examples = source["examples"].setdefault(reason, [])
                examples += marker["examples"][reason][: 5 - len(examples)]
        except (LookupError, TypeError, AttributeError):
            raise DamagedStageError(_marker(task), "it lacks a field") from None
    if first_row == 0:
        notes = [f"{reason}: {count:,}" for source in sources.values() for reason, count in source["problems"].items()]
        raise DataError(
            f"the sources list no image at all ({', '.join(notes) or 'nothing was found'}): check their paths and kinds"
        )
    return {"num_rows": first_row, "chunks": chunks, "sources": sources}


class Catalog:
    """The finished catalog of a working folder. Raises DataError if it is not finished."""

    def __init__(self, work: Path) -> None:
        self.stage = load_stage(work, "catalog")
        summary = self.stage.summary
        try:
            self.num_rows: int = summary["num_rows"]
            self.chunks = [Chunk(**chunk) for chunk in summary["chunks"]]
            self.sources: dict[str, dict[str, Any]] = summary["sources"]
        except (LookupError, TypeError):
            raise DamagedStageError(self.stage.folder / DONE_NAME, "it lacks a field") from None

    def read(self, chunk: Chunk, columns: list[str] | None = None) -> pa.Table:
        """One chunk's rows."""
        return read_columns(self.stage.folder, f"{chunk.name}.parquet", columns)

    def records(self, chunk: Chunk, first: int = 0, last: int = sys.maxsize) -> Iterator[Record]:
        """One chunk's rows, from `first` up to but not including `last`, as records."""
        for row in self.read(chunk).slice(first, last - first).to_pylist():
            yield Record(**{**row, "extra": json.loads(row["extra"]) if row["extra"] else {}})

    def record(self, row: int) -> tuple[str, Record]:
        """Source name and record of one row; slow, for reports."""
        chunk = next(chunk for chunk in self.chunks if chunk.first_row <= row < chunk.first_row + chunk.num_rows)
        table = self.read(chunk).slice(row - chunk.first_row, 1).to_pylist()[0]
        return chunk.source, Record(**{**table, "extra": json.loads(table["extra"]) if table["extra"] else {}})
