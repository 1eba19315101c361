"""Statements about scenes: about two images, true or false (NLVR2); about one with a screen, three classes (entailment)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_tools.scenes.meanings import MIRROR, SHAPES, SPOTS, THINGS, Meaning, Thing

OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")
PAIR_KINDS = ("both", "one", "left", "relation")


@dataclass(frozen=True)
class PairStatement:
    """A sentence about two scenes."""

    kind: str
    sentence: str
    scenes: tuple[Meaning, Meaning]
    label: bool
    objects: tuple[object, ...]
    """View of a model that knows objects but no relations: the kind, and which image has the object."""


def pair_statements(meanings: Sequence[Meaning], generator: random.Random) -> list[PairStatement]:
    """A true and a false sample of one sentence, so that the text alone reveals nothing."""
    kind = generator.choice(PAIR_KINDS)
    if kind == "relation":
        return _relation_statements(generator.choice(meanings), generator)
    thing = generator.choice(THINGS)
    having = [meaning for meaning in meanings if thing in meaning.things]
    lacking = [meaning for meaning in meanings if thing not in meaning.things]

    def scenes(left: bool, right: bool) -> tuple[Meaning, Meaning]:
        chosen = [generator.choice(having if has else lacking) for has in (left, right)]
        return chosen[0], chosen[1]

    side = generator.random() < 0.5
    if kind == "both":
        sentence, true, false = f"both pictures show a {thing}", (True, True), (side, not side)
    elif kind == "one":
        sentence, true = f"only one picture shows a {thing}", (side, not side)
        false = generator.choice([(True, True), (False, False)])
    else:
        sentence, true, false = f"the left picture shows a {thing}", (True, False), (False, True)
    return [PairStatement(kind, sentence, scenes(*has), label, (kind, *has)) for has, label in ((true, True), (false, False))]


def _relation_statements(meaning: Meaning, generator: random.Random) -> list[PairStatement]:
    """Samples in which both images show the same two objects; in the false one, one image shows the opposite relation."""
    opposite = Meaning(meaning.first, meaning.second, MIRROR[meaning.relation])
    sentence = f"both pictures show {meaning.caption(mirrored=generator.random() < 0.5)}"
    wrong = (opposite, meaning) if generator.random() < 0.5 else (meaning, opposite)
    objects = ("relation", True, True)
    return [
        PairStatement("relation", sentence, (meaning, meaning), True, objects),
        PairStatement("relation", sentence, wrong, False, objects),
    ]


@dataclass(frozen=True)
class ScreenStatement:
    """A hypothesis about an image with one visible object and an opaque screen on the other side."""

    sentence: str
    spot: str
    claimed: Thing
    visible: Thing
    visible_spot: str
    label: Label

    @property
    def screen_spot(self) -> str:
        """Position of the screen."""
        return OPPOSITE[self.visible_spot]


HYPOTHESES = tuple((spot, thing) for spot in SPOTS.values() for thing in THINGS)
"""All 96 hypotheses."""


def screen_statements(spot: str, claimed: Thing, generator: random.Random) -> list[ScreenStatement]:
    """One hypothesis with all three labels, so that text alone reveals nothing. Neutral: the place is behind the screen."""
    sentence = f"there is a {claimed} on the {spot}"
    near = [thing for thing in THINGS if (thing.colour == claimed.colour) != (thing.shape == claimed.shape)]
    other = generator.choice(near if generator.random() < 0.5 else [thing for thing in THINGS if thing != claimed])
    beside = claimed if generator.random() < 0.5 else generator.choice(THINGS)
    return [
        ScreenStatement(sentence, spot, claimed, claimed, spot, "entailment"),
        ScreenStatement(sentence, spot, claimed, beside, OPPOSITE[spot], "neutral"),
        ScreenStatement(sentence, spot, claimed, other, spot, "contradiction"),
    ]


@dataclass(frozen=True)
class Expression:
    """A referring expression among three objects: the target, one of its shape, one of its colour (but see `about`)."""

    things: tuple[Thing, Thing, Thing]
    """The first is the target."""

    @property
    def text(self) -> str:
        """Colour and shape, both of which are needed."""
        return f"the {self.things[0]}"

    def about(self, index: int) -> Expression:
        """The same three objects with the one at `index` as the target."""
        return Expression((self.things[index], self.things[index - 2], self.things[index - 1]))


EXPRESSIONS = tuple(
    Expression((meant, Thing(colour, meant.shape), Thing(meant.colour, shape)))
    for meant in THINGS
    for colour in range(len(THINGS) // len(SHAPES))
    if colour != meant.colour
    for shape in range(len(SHAPES))
    if shape != meant.shape
)
"""All 360 expressions."""
