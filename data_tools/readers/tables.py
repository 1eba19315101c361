"""Reads tables with a column of image paths and a column of captions: Parquet, CSV, TSV, JSONL."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import list_files, open_source
from data_tools.readers.source import Problems, Record, SourceSpec, caption_list

IMAGE_COLUMNS = ("image", "path", "file", "file_name", "filename", "image_path", "filepath")
CAPTION_COLUMNS = ("captions", "caption", "text", "title", "alt_text")
_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")


def parts(spec: SourceSpec) -> list[str]:
    """The table files."""
    return list_files(spec.path, _SUFFIXES)


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The records of one table; rows without a path are counted.

    Raises UserError if a column is missing or not a JSON type, images are embedded in the table, or a line is broken.
    """
    columns: tuple[str, str] | None = None
    for number, row in _rows(part):
        if columns is None or part.endswith(".jsonl"):
            columns = (
                _column(part, row, spec.image_column, IMAGE_COLUMNS, "image_column"),
                _column(part, row, spec.caption_column, CAPTION_COLUMNS, "caption_column"),
            )
        listed = row[columns[0]]
        if isinstance(listed, (bytes, dict)):
            raise DataError(f"{part} holds images inside column {columns[0]}: write them as files or tars first")
        if not isinstance(listed, str) or not listed:
            problems.add("row without a path", f"row {number}")
            continue
        captions = caption_list(row[columns[1]])
        image_id = "" if row.get("image_id") is None else str(row["image_id"])
        path = spec.resolve(listed, posixpath.dirname(part))
        yield Record(listed, path, -1, -1, captions, image_id, "" if captions else "no caption", _kept(part, row, spec))


def _kept(part: str, row: dict[str, Any], spec: SourceSpec) -> dict[str, Any]:
    kept = {}
    for name in filter(None, spec.keep.split("+")):
        if name not in row:
            raise ConfigError(f"{part} has no column {name}, only {', '.join(map(str, row))}: correct keep={spec.keep}")
        if not isinstance(row[name], (str, int, float, list, type(None))):
            kind = type(row[name]).__name__
            raise ConfigError(f"{part} column {name} holds a {kind}, which is not a JSON type: leave it out of keep=")
        kept[name] = row[name]
    return kept


def _column(part: str, row: dict[str, Any], wanted: str, usual: tuple[str, ...], setting: str) -> str:
    for name in (wanted,) if wanted else usual:
        if name in row:
            return name
    raise ConfigError(f"{part} has no column {wanted or ' or '.join(usual)}, only {', '.join(map(str, row))}: add {setting}=NAME")


def _rows(part: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if part.endswith(".parquet"):
        try:
            with open_source(part) as file:
                number = 0
                for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{part} is not a whole Parquet file ({str(error).splitlines()[0]}): fetch it again") from None
        return
    with io.TextIOWrapper(open_source(part), encoding="utf-8-sig", newline="") as file:
        number = 1
        try:
            if part.endswith(".jsonl"):
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise DataError(f"{part} line {number} is not a JSON object: fix it")
                        yield number, row
            else:
                reader = csv.DictReader(file, delimiter="\t" if part.endswith(".tsv") else ",", strict=True)
                for row in reader:
                    number = reader.line_num
                    yield number, row
        except (json.JSONDecodeError, csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{part} line {number} is broken ({error}): fix the line or fetch the file again") from None
