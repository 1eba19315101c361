"""Reads the output of img2dataset: a table per shard, and its images in a tar or a folder of the same number.

A run that was killed leaves tars and folders without a table, or with a table of 0 bytes. They are read by their own files.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.data.shards.format import PICTURE_ENDINGS
from data_tools.files.storage import exists, is_url, list_files, remote
from data_tools.readers import folders, tars
from data_tools.readers.parquet_rows import TableFaultError, is_text, parquet_rows
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list
from data_tools.readers.tar_members import members

_CAPTION_COLUMNS = ("caption", "text", "top_caption")
_PICTURE_COLUMNS = ("jpg", "png", "webp")


class _Place(NamedTuple):
    """Where an image lies: id in its source, file, offset and size."""

    name: str
    path: str
    offset: int = -1
    size: int = -1


def parts(spec: SourceSpec) -> list[str]:
    """One path per shard: its table, or its tar or folder if it has none. Raises DataError if there is no shard."""
    if spec.path.endswith((".parquet", ".tar")):
        return list_files(spec.path, (".parquet", ".tar"))
    found: dict[str, str] = {}
    names = _names(spec.path)
    for ending in ("", ".tar", ".parquet"):
        for name in names:
            stem = name.removesuffix(ending) if ending else name
            if name.endswith(ending) and stem.isdigit():
                found[stem] = _join(spec.path, name)
    if any(name.endswith(".tfrecord") for name in names):
        raise DataError(
            f"{spec.path} holds img2dataset's tfrecord output, which is not read: use output_format=webdataset or files"
        )
    if not found:
        list_files(spec.path, (".parquet",))  # explains a path that does not exist
        raise DataError(f"{spec.path} holds no shard of img2dataset such as 00000.parquet: give its output folder")
    return [found[stem] for stem in sorted(found)]


def _names(path: str) -> list[str]:
    if not is_url(path):
        return sorted(os.listdir(path)) if os.path.isdir(path) else []
    with remote(path) as (system, root):
        return sorted(posixpath.basename(name.rstrip("/")) for name in system.ls(root, detail=False))


def _join(folder: str, name: str) -> str:
    return posixpath.join(folder, name) if is_url(folder) else os.path.join(folder, name)


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per row of the table; failed rows keep their status as `missing`.

    Raises UserError if the table is another program's, or holds the images itself.
    """
    stem = part.removesuffix(".parquet").removesuffix(".tar")
    rows: list[dict[str, Any]] | None = None
    if not part.endswith(".parquet"):
        problems.add("shard without its table, read by its own files", posixpath.basename(stem))
    else:
        try:
            rows = list(parquet_rows(part, lambda schema: _needed(spec, part, schema), problems))
        except TableFaultError as error:
            problems.add("table that cannot be read, shard read by its own files", str(error))
    yield from _by_files(spec, stem, problems) if rows is None else _by_table(spec, stem, rows, problems)


def _by_table(spec: SourceSpec, stem: str, rows: list[dict[str, Any]], problems: Problems) -> Iterator[Record]:
    places = _places(stem, problems)
    shard = posixpath.basename(stem) + (".tar!" if exists(stem + ".tar") else "/")
    caption = spec.caption_column or next((name for name in _CAPTION_COLUMNS if rows and name in rows[0]), "")
    if rows and not caption:
        problems.add("table without a caption column (caption_column= names one)", stem)
    for row in rows:
        key, captions = str(row["key"]), caption_list(row[caption]) if caption else []
        place = None if places is None else places.pop(_plain(key), None)
        if row["status"] != "success":
            missing = str(row["status"]).replace("_", " ")
        elif place is None:
            missing = (
                "no tar or folder beside the table" if places is None else f"not in the {'tar' if '!' in shard else 'folder'}"
            )
        else:
            missing = "" if captions else NO_CAPTION
        extra = {"url": row["url"]} if row.get("url") else {}
        name, path, offset, size = place or _Place(f"{shard}{key}", stem)
        yield Record(name, path, offset, size, captions, "", missing, extra)
    for place in (places or {}).values():
        problems.add("picture without a row in the table", place.name)


def _plain(key: str) -> str:
    """A key without leading zeros, which are lost where a table was saved again with the keys as numbers."""
    return key.lstrip("0") or "0" if key.isdigit() else key


def _needed(spec: SourceSpec, part: str, schema: pa.Schema) -> list[str]:
    """The columns that are read, after a check that the table is img2dataset's and does not hold the images."""
    names = schema.names
    if lacking := {"key", "status"} - set(names):
        raise DataError(f"{part} lacks column {sorted(lacking)[0]}: is it img2dataset's output? For another table use kind table")
    caption = spec.caption_column or next((name for name in _CAPTION_COLUMNS if name in names), "")
    if caption and caption not in names:
        raise ConfigError(f"{part} has no column {caption}, only {', '.join(names)}: correct caption_column=")
    if caption and not is_text(schema.field(caption).type, lists=True):
        raise ConfigError(f"{part} column {caption} holds {schema.field(caption).type}, not text: correct caption_column=")
    if pictures := [name for name in _PICTURE_COLUMNS if name in names]:
        raise DataError(
            f"{part} holds the images in its column {pictures[0]} (output_format=parquet), which is not read: download with "
            "output_format=webdataset or files, or write the column as files"
        )
    has_url = "url" in names and is_text(schema.field("url").type)
    return ["key", "status", *([caption] if caption else []), *(["url"] if has_url else [])]


def _by_files(spec: SourceSpec, stem: str, problems: Problems) -> Iterator[Record]:
    if exists(stem + ".tar"):
        yield from tars.read_webdataset(spec, stem + ".tar", problems)
    elif not is_url(stem) and os.path.isdir(stem):
        shard = os.path.basename(stem)
        for record in folders.read(spec, stem, problems):
            yield record._replace(id=f"{shard}/{record.id}")
    else:
        problems.add("table that cannot be read, without a tar or folder", stem)


def _places(stem: str, problems: Problems) -> dict[str, _Place] | None:
    """The images of a shard by their key; None if it has neither tar nor folder."""
    shard = posixpath.basename(stem)
    if exists(stem + ".tar"):
        return {
            _plain(os.path.splitext(member.name)[0]): _Place(
                f"{shard}.tar!{member.name}", stem + ".tar", member.offset, member.size
            )
            for member in members(stem + ".tar", problems)
            if member.ending in PICTURE_ENDINGS
        }
    if not exists(stem):
        return None
    found = {}
    for name in _names(stem):
        key, ending = os.path.splitext(name)
        if ending.lower() in PICTURE_ENDINGS:
            found[_plain(key)] = _Place(f"{shard}/{key}", _join(stem, name))
    return found
