"""Reads existing tars: WebDataset's, img2dataset's and our own shards. Nothing is extracted; members are found by offset.

A member is identified by its full name in its tar, never its base name; a key may hold dots. Names that are absolute or leave
the folder by `..` are harmless here but indicate a bad tar: they are counted and left out.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.data.shards.format import Manifest, load_index, sample_key
from data_tools.files.storage import is_url, join, list_files, open_source
from data_tools.readers.source import IMAGE_SUFFIXES, Problems, Record, SourceSpec, caption_list

_TEXT_SUFFIXES = (".txt", ".caption", ".text")
_CAPTION_FIELDS = ("captions", "caption", "text", "alt", "title")


@dataclass
class _Group:
    """The members of one sample: image, texts and metadata as (name, offset, size)."""

    image: tuple[str, int, int] | None = None
    texts: list[bytes] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


def parts(spec: SourceSpec) -> list[str]:
    """The tar files."""
    return list_files(spec.path, (".tar",))


def read_webdataset(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per key with an image; a truncated tar yields its complete members and is counted.

    A repeated full name gets `#2` and so on, to distinguish it from the first.
    """
    times: Counter[str] = Counter()
    for key, group in _groups(part, problems):
        if group.image is None:
            problems.add("key without a picture", key)
            continue
        name, offset, size = group.image
        times[name] += 1
        again = f"#{times[name]}" if times[name] > 1 else ""
        captions = [text for raw in group.texts for text in caption_list(raw.decode("utf-8", "replace").splitlines())]
        for column in _CAPTION_FIELDS:
            if not captions:
                captions = caption_list(group.meta.get(column))
        image_id, missing = str(group.meta.get("image_id", "")), "" if captions else "no caption"
        yield Record(f"{posixpath.basename(part)}!{name}{again}", part, offset, size, captions, image_id, missing)


def _groups(part: str, problems: Problems) -> Iterator[tuple[str, _Group]]:
    """Yields members grouped by key. Only neighbours are joined, as in WebDataset, so a repeated key is another sample."""
    key, group, seen = "", _Group(), set[str]()
    for name, offset, size, content in _members(part, problems):
        stem, suffix = os.path.splitext(name)
        if stem != key or (group.image is not None and suffix.lower() in IMAGE_SUFFIXES):
            if key:
                yield key, group
            if stem in seen:
                problems.add("key that comes again", stem)
            seen.add(stem)
            key, group = stem, _Group()
        if suffix.lower() in IMAGE_SUFFIXES:
            group.image = (name, offset, size)
        elif suffix in _TEXT_SUFFIXES:
            group.texts.append(content)
        elif suffix == ".json":
            try:
                raw = json.loads(content)
                group.meta = raw if isinstance(raw, dict) else {}
            except ValueError:
                problems.add("broken JSON member", name)
    if key:
        yield key, group


def _members(part: str, problems: Problems) -> Iterator[tuple[str, int, int, bytes]]:
    """Yields name, data offset and size of each plain file, with the content of text files."""
    try:
        with open_source(part) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    problems.add("unsafe member name", member.name)
                    continue
                suffix = os.path.splitext(member.name)[1]
                text = suffix in _TEXT_SUFFIXES or suffix == ".json"
                yield member.name, member.offset_data, member.size, _content(tar, member) if text else b""
    except (tarfile.TarError, EOFError) as error:
        problems.add("tar cut off or damaged", f"{part}: {error}")
    except FileNotFoundError:
        raise DataError(f"{part} does not exist: check the path") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = tar.extractfile(member)
    return file.read() if file is not None else b""


def img2dataset_parts(spec: SourceSpec) -> list[str]:
    """The Parquet files of an img2dataset output folder."""
    return [path for path in list_files(spec.path, (".parquet",)) if posixpath.basename(path).removesuffix(".parquet").isdigit()]


def read_img2dataset(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per row of the Parquet file; failed rows keep their status as `missing`. Raises UserError without a column."""
    stem = part.removesuffix(".parquet")
    with open_source(part) as file:
        table = pq.read_table(file)
    if lacking := {"key", "status"} - set(table.column_names):
        raise DataError(f"{part} lacks column {sorted(lacking)[0]}: is it img2dataset's output? For another table use kind table")
    names = table.column_names
    caption_column = spec.caption_column or next((name for name in ("caption", "text", "top_caption") if name in names), "")
    if caption_column not in names:
        wanted = caption_column or "caption"
        raise ConfigError(f"{part} has no column {wanted}, only {', '.join(names)}: add caption_column=NAME")
    in_tar = is_url(stem) or os.path.exists(stem + ".tar")
    members: dict[str, tuple[str, int, int]] = {}
    if in_tar:
        for name, offset, size, _ in _members(stem + ".tar", problems):
            key, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                members[key] = (name, offset, size)
    shard = posixpath.basename(stem)
    for row in table.to_pylist():
        key, captions = str(row["key"]), caption_list(row[caption_column])
        missing = "" if captions else "no caption"
        if row["status"] != "success":
            missing = str(row["status"]).replace("_", " ")
        extra = {"url": row["url"]} if row.get("url") else {}
        if not in_tar:
            yield Record(f"{shard}/{key}", join(stem, f"{key}.jpg"), -1, -1, captions, "", missing, extra)
        elif key in members:
            name, offset, size = members[key]
            yield Record(f"{shard}.tar!{name}", stem + ".tar", offset, size, captions, "", missing, extra)
        else:
            yield Record(f"{shard}.tar!{key}", stem + ".tar", -1, -1, captions, "", missing or "not in the tar", extra)


def shards_parts(spec: SourceSpec) -> list[str]:
    """The tars that the manifest lists."""
    return [os.path.join(spec.path, shard.name) for shard in Manifest.load(Path(spec.path)).shards]


def read_shards(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The samples of one of our shards, read through its index. Raises UserError as `load_index`."""
    folder = Path(spec.path)
    manifest, name = Manifest.load(folder), posixpath.basename(part)
    first = 0
    for entry in manifest.shards:
        if entry.name == name:
            break
        first += entry.num_samples
    with open(part, "rb") as file:
        for number, (offset, size, meta_offset, meta_size) in enumerate(load_index(folder, entry).tolist(), start=first):
            file.seek(meta_offset)
            meta = json.loads(file.read(meta_size))
            extra = {key: value for key, value in meta.items() if key not in ("captions", "image_id")}
            member, captions = f"{name}!{sample_key(number)}", caption_list(meta["captions"])
            yield Record(member, part, offset, size, captions, meta["image_id"], "", extra)
