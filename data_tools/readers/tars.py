"""Reads tars in WebDataset form. A member is identified by its full name in its tar, never its base name; a key may hold dots."""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from albef_ds.data.shards.format import PICTURE_ENDINGS
from albef_ds.data.shards.sample_keys import GroupFacts, join_compound_endings
from data_tools.files.storage import list_files
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list, id_of, text_of
from data_tools.readers.tar_members import TAR_ENDINGS, TEXT_ENDINGS, Member, members

_CAPTION_FIELDS = ("captions", "caption", "text", "alt", "title")


@dataclass
class Group:
    """The members of one sample: its image, its texts in order, its metadata."""

    key: str
    image: Member | None = None
    texts: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def captions(self) -> list[str]:
        """The captions of the texts, one per member, else those of the metadata."""
        captions = [caption for text in self.texts for caption in caption_list(text)]
        for column in _CAPTION_FIELDS:
            captions = captions or caption_list(self.meta.get(column))
        return captions

    def add(self, member: Member, problems: Problems) -> None:
        """Takes a member in; files of other kinds belong to the sample but are not read."""
        if member.ending in PICTURE_ENDINGS:
            self.image = member
        elif member.ending in TEXT_ENDINGS:
            self.texts.append(text_of(member.content, problems, member.name))
        elif member.ending == ".json":
            try:
                raw = json.loads(member.content)
            except (ValueError, RecursionError):
                raw = None
            if isinstance(raw, dict):
                self.meta = raw
            else:
                problems.add("broken JSON member", member.name)

    def join(self, other: Group) -> None:
        """Takes in the members of `other`."""
        self.image = self.image or other.image
        self.texts += other.texts
        self.meta |= other.meta


def parts(spec: SourceSpec) -> list[str]:
    """The tar files; compressed ones are listed to be counted."""
    return list_files(spec.path, TAR_ENDINGS)


def read_webdataset(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per key with an image; a truncated or damaged tar yields its complete members and is counted.

    A repeated full name gets `#2` and so on, to distinguish it from the first.
    """
    times: Counter[str] = Counter()
    for group in samples(members(part, problems), problems):
        if group.image is None:
            problems.add("key without a picture", group.key)
            continue
        times[group.image.name] += 1
        count = times[group.image.name]
        again = f"#{count}" if count > 1 else ""
        captions = group.captions()
        name = f"{posixpath.basename(part)}!{group.image.name}{again}"
        image_id, missing = id_of(group.meta.get("image_id")), "" if captions else NO_CAPTION
        yield Record(name, part, group.image.offset, group.image.size, captions, image_id, missing)


def samples(found: Iterable[Member], problems: Problems) -> Iterator[Group]:
    """Groups neighbouring members of one key into samples; a repeated key is another sample. See `join_compound_endings`."""

    def facts(group: Group) -> GroupFacts:
        return GroupFacts(group.key, group.image is not None, bool(group.captions()))

    return join_compound_endings(_groups(found, problems), facts, _whole)


def _whole(key: str, groups: list[Group]) -> Group:
    whole = Group(key)
    for group in groups:
        whole.join(group)
    return whole


def _groups(found: Iterable[Member], problems: Problems) -> Iterator[Group]:
    group, seen = Group(""), set[str]()
    for member in found:
        stem = os.path.splitext(member.name)[0]
        if stem != group.key or (group.image is not None and member.ending in PICTURE_ENDINGS):
            if group.key:
                yield group
            if stem in seen:
                problems.add("key that comes again", stem)
            seen.add(stem)
            group = Group(stem)
        group.add(member, problems)
    if group.key:
        yield group
