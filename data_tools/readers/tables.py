"""Reads tables with a column of image paths and a column of captions: Parquet, CSV, TSV, JSONL. Only needed columns are read."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import list_files
from data_tools.readers.parquet_rows import is_json, is_text, parquet_rows
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list, id_of, id_of_text
from data_tools.readers.text_rows import csv_rows, jsonl_rows, tsv_rows

IMAGE_COLUMNS = ("image", "path", "file", "file_name", "filename", "image_path", "filepath")
CAPTION_COLUMNS = ("captions", "caption", "text", "title", "alt_text")
_ID_COLUMN = "image_id"
_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")


def parts(spec: SourceSpec) -> list[str]:
    """The table files."""
    return list_files(spec.path, _SUFFIXES)


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The records of one table; rows without a path are counted.

    Raises UserError if a column is missing or of a wrong type, images are embedded in the table, or a line is broken.
    """
    for number, row in _rows(spec, part, problems):
        image, captions = _columns(spec, part, row)
        listed = row[image]
        if isinstance(listed, float) and math.isnan(listed):
            listed = None
        if isinstance(listed, str) and listed:
            texts = caption_list(row[captions])
            image_id = row.get(_ID_COLUMN)
            image_id = id_of_text(image_id) if isinstance(image_id, str) and part.lower().endswith("sv") else id_of(image_id)
            path = spec.resolve(listed, posixpath.dirname(part))
            yield Record(listed, path, -1, -1, texts, image_id, "" if texts else NO_CAPTION, _kept(part, row, spec))
        else:
            kind = "" if listed is None or listed == "" else f" ({type(listed).__name__} instead of text)"
            problems.add(f"row without a path{kind}", f"row {number}")


def _rows(spec: SourceSpec, part: str, problems: Problems) -> Iterable[tuple[int, dict[str, Any]]]:
    ending = posixpath.splitext(part)[1].lower()
    if ending == ".parquet":
        return enumerate(parquet_rows(part, lambda schema: _needed(spec, part, schema, problems), problems), start=1)
    return {".jsonl": jsonl_rows, ".tsv": tsv_rows, ".csv": csv_rows}[ending](part, problems)


def _needed(spec: SourceSpec, part: str, schema: pa.Schema, problems: Problems) -> list[str]:
    """The columns of a Parquet file that are read, after a check of their types."""
    image, captions = _columns(spec, part, schema.names)
    names = [image, captions]
    if not is_text(schema.field(image).type):
        kind = schema.field(image).type
        if pa.types.is_struct(kind):
            raise DataError(f"{part} holds images inside column {image}: write them as files or tars first")
        raise ConfigError(f"{part} column {image} holds {kind}, not paths: add image_column=NAME")
    if not is_text(schema.field(captions).type, lists=True):
        raise ConfigError(f"{part} column {captions} holds {schema.field(captions).type}, not text: add caption_column=NAME")
    if _ID_COLUMN in schema.names:
        if is_json(schema.field(_ID_COLUMN).type):
            names.append(_ID_COLUMN)
        else:
            problems.add("column image_id that is neither text nor number", str(schema.field(_ID_COLUMN).type))
    for name in _keep(spec):
        if name in schema.names and not is_json(schema.field(name).type):
            raise ConfigError(f"{part} column {name} holds {schema.field(name).type}, no JSON type: leave it out of keep=")
        names += [name] if name in schema.names else []
    return names


def _columns(spec: SourceSpec, part: str, names: Iterable[str]) -> tuple[str, str]:
    names = list(names)
    return (
        _column(part, names, spec.image_column, IMAGE_COLUMNS, "image_column"),
        _column(part, names, spec.caption_column, CAPTION_COLUMNS, "caption_column"),
    )


def _column(part: str, names: Sequence[str], wanted: str, usual: tuple[str, ...], setting: str) -> str:
    for name in (wanted,) if wanted else usual:
        if name in names:
            return name
    raise ConfigError(
        f"{part} has no column {wanted or ' or '.join(usual)}, only {', '.join(map(str, names))}: add {setting}=NAME"
    )


def _keep(spec: SourceSpec) -> list[str]:
    return [name for name in spec.keep.split("+") if name]


def _kept(part: str, row: dict[str, Any], spec: SourceSpec) -> dict[str, Any]:
    kept = {}
    for name in _keep(spec):
        if name not in row:
            raise ConfigError(f"{part} has no column {name}, only {', '.join(map(str, row))}: correct keep={spec.keep}")
        kept[name] = _json_value(row[name], f"{part} column {name}")
    return kept


def _json_value(value: Any, where: str) -> Any:
    """`value` as JSON can hold it: NaN, which means that there is none, becomes null. Raises ConfigError for another type."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list):
        return [_json_value(entry, where) for entry in value]
    if not isinstance(value, (str, int, float, type(None))) or (isinstance(value, float) and math.isinf(value)):
        said = value if isinstance(value, float) else f"a {type(value).__name__}"
        raise ConfigError(f"{where} holds {said}, which is not a JSON type: leave it out of keep=")
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
