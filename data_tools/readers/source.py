"""What a source is (`SourceSpec`) and what every reader yields (`Record`).

Reads nothing itself; the formats live in `data_tools.readers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from albef_ds.common.errors import ConfigError
from data_tools.files.storage import join

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Record(NamedTuple):
    """One listed picture with its captions: a row of the catalog."""

    id: str
    """What identifies it within its source: the listed path, or `TAR!MEMBER`; never a base name."""
    path: str
    """Local path or URL of the file that holds its bytes."""
    offset: int
    """Where its bytes start in that file; -1: the file is the picture."""
    size: int
    """Bytes; -1 when `offset` is."""
    captions: list[str]
    image_id: str = ""
    """Identifier given by the data set, such as a COCO id; empty: none."""
    missing: str = ""
    """Why there is nothing to read (a failed download, no caption); empty: there should be."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """Further facts worth keeping, such as a COCO id of a Visual Genome picture."""


@dataclass
class Problems:
    """Counts of what a reader met that is not a record, with up to five examples each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        if len(self.examples.setdefault(reason, [])) < 5:
            self.examples[reason].append(example[:300])


@dataclass(frozen=True)
class SourceSpec:
    """Where one data set lies and how it is read. `albef-data catalog --help` explains the kinds."""

    name: str
    kind: str
    path: str
    """The list, table, tar or folder; local or URL."""
    images: str = ""
    """Folder or URL that relative picture paths start from; empty: where `path` lies."""
    remap: dict[str, str] = field(default_factory=dict)
    """Prefixes of listed paths and what replaces them, longest first."""
    image_column: str = ""
    """Column of a table with the picture's path; empty: the usual names are tried."""
    caption_column: str = ""
    """Column of a table with the caption or captions; empty: the usual names are tried."""
    keep: str = ""
    """Further columns of a table that go into each sample's JSON, joined by `+`; a `source` among them is kept as such."""
    pattern: str = ""
    """File name of a downloaded picture of a URL list, with `{index}` (`{index:8}`: zero-padded) and `{basename}` filled in."""
    second: str = ""
    """The second file where a format has two: Visual Genome's `image_data.json`, SBU's captions, openclipart's SVG folder."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ConfigError(f"source name {self.name!r} is empty or holds a slash: give a short name such as coco")
        if not self.path:
            raise ConfigError(f"source {self.name} has no path: write {self.name}={self.kind}:PATH")

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> SourceSpec:
        """A spec from a JSON object.

        Raises:
            ConfigError: an unknown or missing field.
        """
        known = {f.name for f in fields(cls)}
        if unknown := set(raw) - known:
            raise ConfigError(f"source field {sorted(unknown)[0]} is unknown: use {', '.join(sorted(known))}")
        if lacking := {"name", "kind", "path"} - set(raw):
            raise ConfigError(f"a source lacks {sorted(lacking)[0]}: give name, kind and path")
        return cls(**raw)

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """A spec from `NAME=KIND:PATH[,FIELD=VALUE...]`; a remap is written `remap=OLD=>NEW`.

        Raises:
            ConfigError: it has another form.
        """
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
                    raise ConfigError(
                        f"remap {value!r} in source {name} is not OLD=>NEW: for example remap=/export/home/=>/data/"
                    )
                raw.setdefault("remap", {})[old] = new
            else:
                raw[key] = value
        return cls.from_dict(raw)

    def resolve(self, listed: str, root: str) -> str:
        """Where a listed picture lies: remapped, then taken from `images`, or from `root` where that is not set."""
        for old in sorted(self.remap, key=len, reverse=True):
            if listed.startswith(old):
                listed = self.remap[old] + listed[len(old) :]
                break
        return join(self.images or root, listed)


def caption_list(value: Any) -> list[str]:
    """`value` as a list of captions that are not blank: a string, or a list whose other members are left out."""
    values: Iterable[Any] = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [" ".join(text.split()) for text in values if isinstance(text, str) and text.strip()]
