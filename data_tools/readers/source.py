"""Defines a source (`SourceSpec`) and the records that every reader yields (`Record`). Reads nothing itself."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from albef_ds.common.errors import ConfigError
from data_tools.files.storage import join

_FLOAT_ID = re.compile(r"-?\d+\.0+")

NO_CAPTION = "no caption"
"""Value of `Record.missing` for an image without captions: it is read and hashed, but never written to a corpus."""


class Record(NamedTuple):
    """One listed image with its captions: a row of the catalog."""

    id: str
    """Unique name within its source: the listed path, or `TAR!MEMBER`; never a base name."""
    path: str
    """Local path or URL of the file that holds its bytes."""
    offset: int
    """Position of its bytes in that file; -1: the file is the image."""
    size: int
    """Number of bytes; -1 if `offset` is -1."""
    captions: list[str]
    image_id: str = ""
    """Identifier in the data set, such as a COCO id; empty: none."""
    missing: str = ""
    """Reason why there is nothing to read (a failed download) or to train on (`NO_CAPTION`); empty: there should be an image."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """Further metadata to keep, such as the COCO id of a Visual Genome image."""


@dataclass
class Problems:
    """Counts of a source's entries that are not records, by reason, with up to five examples each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Counts one problem."""
        self.counts[reason] += 1
        if len(self.examples.setdefault(reason, [])) < 5:
            self.examples[reason].append(example[:300])


@dataclass(frozen=True)
class SourceSpec:
    """Location and format of one data set. `albef-data catalog --help` explains the kinds."""

    name: str
    kind: str
    path: str
    """The list, table, tar or folder; local or URL."""
    images: str = ""
    """Folder or URL from which relative image paths start; empty: the folder of `path`."""
    remap: dict[str, str] = field(default_factory=dict)
    """Replacements for prefixes of listed paths, longest prefix first."""
    image_column: str = ""
    """Column of a table with the image path; empty: the usual names are tried."""
    caption_column: str = ""
    """Column of a table with one or several captions; empty: the usual names are tried."""
    keep: str = ""
    """Further columns of a table for each sample's JSON, joined by `+`; a `source` among them keeps its value."""
    pattern: str = ""
    """File name of a downloaded image of a URL list, with `{index}` (`{index:8}`: zero-padded) and `{basename}` filled in."""
    second: str = ""
    """The second file if a format has two: Visual Genome's `image_data.json`, SBU's captions, openclipart's SVG folder."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ConfigError(f"source name {self.name!r} is empty or holds a slash: give a short name such as coco")
        if not self.path:
            raise ConfigError(f"source {self.name} has no path: write {self.name}={self.kind}:PATH")

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> SourceSpec:
        """A spec from a JSON object. Raises ConfigError for an unknown or missing field."""
        known = {f.name for f in fields(cls)}
        if unknown := set(raw) - known:
            raise ConfigError(f"source field {sorted(unknown)[0]} is unknown: use {', '.join(sorted(known))}")
        if lacking := {"name", "kind", "path"} - set(raw):
            raise ConfigError(f"a source lacks {sorted(lacking)[0]}: give name, kind and path")
        return cls(**raw)

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """A spec from `NAME=KIND:PATH[,FIELD=VALUE...]`, where a remap is `remap=OLD=>NEW`. Raises ConfigError otherwise."""
        head, *options = text.split(",")
        name, equals, rest = head.partition("=")
        kind, colon, path = rest.partition(":")
        if not equals or not colon:
            raise ConfigError(f"source {text!r} is not NAME=KIND:PATH: for example coco=json:annotations/coco.json,images=coco/")
        raw: dict[str, Any] = {"name": name, "kind": kind, "path": path}
        for option in options:
            key, equals, value = option.partition("=")
            if not equals:
                raise ConfigError(f"{option!r} in source {name} is not FIELD=VALUE: for example images=coco/")
            if key == "remap":
                old, arrow, new = value.partition("=>")
                if not arrow:
                    raise ConfigError(f"remap {value!r} in source {name} is not OLD=>NEW: for example remap=/home/=>/data/")
                raw.setdefault("remap", {})[old] = new
            else:
                raw[key] = value
        return cls.from_dict(raw)

    def resolve(self, listed: str, root: str) -> str:
        """Path of a listed image: remapped, then relative to `images`, or to `root` if that is not set."""
        for old in sorted(self.remap, key=len, reverse=True):
            if listed.startswith(old):
                listed = self.remap[old] + listed[len(old) :]
                break
        return join(self.images or root, listed)


def caption_list(value: Any) -> list[str]:
    """The non-blank captions in `value`: a string, or the strings of a list. None and NaN mean that there is none."""
    values: Iterable[Any] = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [" ".join(text.split()) for text in values if isinstance(text, str) and text.strip()]


def text_of(raw: bytes, problems: Problems, where: str) -> str:
    """`raw` decoded as UTF-8, without a byte-order mark. Bytes that are not UTF-8 are replaced and counted."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add("text that is not UTF-8", where)
        return raw.decode("utf-8-sig", "replace")


def id_of(value: Any) -> str:
    """The identifier `value` as text: empty for None and NaN; `391895.0`, which pandas makes of an integer id, is `391895`."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def id_of_text(text: str) -> str:
    """The same for an identifier that comes from a text file."""
    return text.partition(".")[0] if _FLOAT_ID.fullmatch(text) else "" if text.lower() == "nan" else text
