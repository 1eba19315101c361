"""The text of the emoji corpus: one `Concept` per emoji from emojibase's English data, and the splits of the concepts."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_tools.emoji.families import family_keys, group_families, normal_code

NUM_TEST = 300
NUM_VAL = 150
LARGEST_HELD_OUT = 8
"""Larger families (clock faces, arrows, hearts) stay in training: a single one would fill a tenth of a gallery."""
_COMPONENTS = 2  # emojibase's group of skin tones and hair, which are not images by themselves
_TAGS_PER_CAPTION = 4
_TAG_CAPTIONS = 3


@dataclass(frozen=True)
class Concept:
    """The subject of an emoji, independent of the drawing style."""

    code: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    family: str

    @property
    def is_flag(self) -> bool:
        """True for flags, which form a separate split."""
        return self.group == "flags"


def read_concepts(emojibase: Path) -> tuple[list[Concept], dict[str, int]]:
    """All concepts in Unicode's order without skin-tone variants, and counts of those left out by reason."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text(encoding="utf-8"))
    rows = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    dropped = {
        "regional indicators": sum("group" not in row for row in rows),
        "skin tones and hair": sum(row.get("group") == _COMPONENTS for row in rows),
        "skin-tone variants": sum(len(row.get("skins", ())) for row in rows),
    }
    rows = sorted((row for row in rows if row.get("group", _COMPONENTS) != _COMPONENTS), key=lambda row: row["order"])
    families = group_families(
        {code: family_keys(code, row["label"], row["group"]) for row in rows for code in [normal_code(row["hexcode"])]}
    )
    concepts = []
    for row in rows:
        code = normal_code(row["hexcode"])
        group, subgroup = names["groups"][str(row["group"])], names["subgroups"][str(row["subgroup"])]
        concepts.append(Concept(code, row["label"], tuple(row.get("tags", ())), group, subgroup, families[code]))
    return concepts, dropped


def captions(concept: Concept, seed: int) -> list[str]:
    """Training captions: the label, then the label with up to four of its tags at a time.

    Test queries are labels alone, so the plain label is a caption; tags connect the words of unseen labels with images. `seed`
    determines which tags are combined; tags that are words of the label are left out.
    """
    words = set(concept.label.lower().split())
    tags = [tag for tag in concept.tags if tag.lower() not in words and tag.lower() != concept.label.lower()]
    tags.sort(key=lambda tag: draw(seed, f"{concept.code} {tag}"))
    chunks = [tags[start : start + _TAGS_PER_CAPTION] for start in range(0, len(tags), _TAGS_PER_CAPTION)]
    return [concept.label, *(", ".join([concept.label, *chunk]) for chunk in chunks[:_TAG_CAPTIONS])]


def split_concepts(concepts: Iterable[Concept], seed: int, num_test: int = NUM_TEST, num_val: int = NUM_VAL) -> dict[str, str]:
    """Maps concept codes to `train`, `val`, `test` or `flags`; each family is in one split."""
    families: dict[str, list[Concept]] = defaultdict(list)
    split = {}
    for concept in concepts:
        if concept.is_flag:
            split[concept.code] = "flags"
        else:
            families[concept.family].append(concept)
    wanted = {"test": num_test, "val": num_val}
    for family in sorted(families, key=lambda family: draw(seed, family)):
        size = len(families[family])
        fits = [name for name, room in wanted.items() if size <= min(room, LARGEST_HELD_OUT)]
        name = fits[0] if fits else "train"
        if fits:
            wanted[name] -= size
        split.update({concept.code: name for concept in families[family]})
    return split


def draw(seed: int, text: str) -> bytes:
    """A pseudo-random sort key that depends only on `seed` and `text`."""
    return hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()
