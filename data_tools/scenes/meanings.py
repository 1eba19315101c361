"""Meanings of scenes: two different objects and one of four relations, 1,104 in all, and their captions.

A meaning is an unordered pair of objects with the relation of the first to the second; "a red circle left of a blue square"
and its mirror "a blue square right of a red circle" are one meaning. Splits are by meaning, never by image.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")

Relation = Literal["left of", "right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")
MIRROR: dict[Relation, Relation] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SPOTS: dict[Relation, str] = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
"""Position of the first object of a relation."""

HELD_OUT = 0.2
"""Share of the meanings that are in no training image."""


@dataclass(frozen=True, order=True)
class Thing:
    """An object without its size, which belongs to the image and not to the meaning."""

    colour: int
    shape: int

    @property
    def number(self) -> int:
        """0 to 23."""
        return self.colour * len(SHAPES) + self.shape

    def __str__(self) -> str:
        return f"{COLOURS[self.colour]} {SHAPES[self.shape]}"


THINGS = tuple(Thing(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES)))


@dataclass(frozen=True)
class Meaning:
    """`first` is in `relation` to `second`; `first` < `second`, so that equal meanings compare equal."""

    first: Thing
    second: Thing
    relation: Relation

    @classmethod
    def of(cls, first: Thing, second: Thing, relation: Relation) -> Meaning:
        """The meaning of a statement in either order."""
        if first < second:
            return cls(first, second, relation)
        return cls(second, first, MIRROR[relation])

    @property
    def things(self) -> tuple[Thing, Thing]:
        """Both objects."""
        return self.first, self.second

    @property
    def hard(self) -> bool:
        """True if both colour and shape differ, so that binding is distinguishable from a bag of words."""
        return self.first.colour != self.second.colour and self.first.shape != self.second.shape

    def caption(self, mirrored: bool = False, name: Callable[[Thing], str] = str) -> str:
        """One of its two statements; `name` gives the name of an object."""
        if mirrored:
            return f"a {name(self.second)} {MIRROR[self.relation]} a {name(self.first)}"
        return f"a {name(self.first)} {self.relation} a {name(self.second)}"

    def captions(self, name: Callable[[Thing], str] = str) -> list[str]:
        """Both statements."""
        return [self.caption(False, name), self.caption(True, name)]


MEANINGS = tuple(Meaning(a, b, relation) for a, b in combinations(THINGS, 2) for relation in RELATIONS)
"""All 1,104 meanings; the four relations of a pair are adjacent."""
HARD = tuple(meaning for meaning in MEANINGS if meaning.hard)
"""The 720 meanings of the hard gallery."""


@dataclass(frozen=True)
class Split:
    """Training and held-out meanings; at most two relations of each pair of objects are held out."""

    train: tuple[Meaning, ...]
    held_out: tuple[Meaning, ...]


def split_meanings(seed: int, held_out: float = HELD_OUT) -> Split:
    """Holds out a share of the meanings, drawn with `seed`; every object and every pair stays in training."""
    generator = random.Random(f"split {seed}")
    pairs: dict[tuple[Thing, Thing], list[Meaning]] = {}
    for meaning in MEANINGS:
        pairs.setdefault(meaning.things, []).append(meaning)
    # Two passes over all pairs reach any share up to one half without holding out all of a pair.
    queue = [generator.sample(meanings, 2) for meanings in generator.sample(list(pairs.values()), len(pairs))]
    wanted = round(len(MEANINGS) * held_out)
    chosen = set([two[0] for two in queue] + [two[1] for two in queue][: max(0, wanted - len(queue))])
    if wanted < len(queue):
        chosen = {two[0] for two in queue[:wanted]}
    return Split(tuple(m for m in MEANINGS if m not in chosen), tuple(m for m in MEANINGS if m in chosen))
