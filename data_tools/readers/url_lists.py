"""Reads SBU, CC3M and CC12M as published: captions with URLs, plus a folder of downloaded images.

Downloads made by img2dataset have another reader (`img2dataset.py`), which also knows the failed ones.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urlsplit

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import list_files, load_json
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list
from data_tools.readers.text_rows import lines

_FIELD = re.compile(r"\{(index|basename)(?::(\d{1,2}))?\}")


def parts(spec: SourceSpec) -> list[str]:
    """The list files."""
    return list_files(spec.path, (".tsv", ".txt", ".json"))


def read_cc3m(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The records of lines of caption, tab, URL. Raises UserError as `_records`."""
    yield from _records(spec, part, ((caption, url) for caption, url in _columns(part, problems)))


def read_cc12m(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The records of lines of URL, tab, caption. Raises UserError as `_records`."""
    yield from _records(spec, part, ((caption, url) for url, caption in _columns(part, problems)))


def read_sbu(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The records of two text files (URLs, and captions in `second`) or one JSON of `image_urls` and `captions`.

    Raises UserError if the two differ in length or the JSON has another form.
    """
    if part.lower().endswith(".json"):
        raw = load_json(Path(part))
        if not isinstance(raw, dict) or not isinstance(raw.get("image_urls"), list) or not isinstance(raw.get("captions"), list):
            raise DataError(f"{part} lacks image_urls and captions: give sbu-captions-all.json")
        pairs = zip_longest(raw["captions"], raw["image_urls"])
    elif not spec.second:
        raise ConfigError(f"source {spec.name} needs SBU's captions: add second=PATH/SBU_captioned_photo_dataset_captions.txt")
    else:
        captions, urls = lines(spec.second, problems), lines(part, problems)
        pairs = zip_longest((text for _, text in captions), (text for _, text in urls))
    yield from _records(spec, part, pairs)


def _records(spec: SourceSpec, part: str, pairs: Iterator[tuple[str | None, str | None]]) -> Iterator[Record]:
    if not spec.pattern:
        raise ConfigError(f"source {spec.name} lacks the names of downloads: add pattern={{index:8}}.jpg or pattern={{basename}}")
    for index, (caption, url) in enumerate(pairs):
        if caption is None or url is None:
            raise DataError(f"{part} and its captions differ in length at line {index + 1}: fetch both files again")
        if not isinstance(url, str):
            raise DataError(f"{part} entry {index + 1} has no URL but {str(url)[:80]}: fetch the file again")
        name = fill_pattern(spec.pattern, index, url)
        captions = caption_list(caption)
        missing = "" if captions else NO_CAPTION
        yield Record(name, spec.resolve(name, posixpath.dirname(part)), -1, -1, captions, "", missing, {"url": url})


def fill_pattern(pattern: str, index: int, url: str) -> str:
    """`pattern` with `{index}` (the 0-based line), `{index:8}` (zero-padded) and `{basename}` (of the URL's path) filled in."""
    try:
        basename = posixpath.basename(urlsplit(url).path)
    except ValueError:  # such as http://[ without its end
        basename = posixpath.basename(url)

    def fill(match: re.Match[str]) -> str:
        return str(index).zfill(int(match[2] or 0)) if match[1] == "index" else basename

    return _FIELD.sub(fill, pattern)


def _columns(path: str, problems: Problems) -> Iterator[tuple[str, str]]:
    for number, line in lines(path, problems):
        first, tab, second = line.partition("\t")
        if not tab:
            # The line stays an entry, so that later lines keep their index and the count of listed pairs is right.
            problems.add("line without a tab", f"line {number}: {line}")
        yield first, second
