"""Questions about scenes for visual question answering, balanced so that the question alone reveals little."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from data_tools.scenes.meanings import COLOURS, MEANINGS, MIRROR, SHAPES, SIZES, SPOTS, THINGS, Meaning, Thing

Sizes = tuple[int, ...]
"""Sizes of the first and the second object; 0 small, 1 large."""


@dataclass(frozen=True)
class Question:
    """One question with its answer."""

    kind: str
    text: str
    answer: str


def questions(meaning: Meaning, sizes: Sizes) -> dict[str, list[Question]]:
    """Every possible question about a scene, by kind."""
    first, second = meaning.things
    both = ((first, second, meaning.relation, sizes[0]), (second, first, MIRROR[meaning.relation], sizes[1]))
    found: dict[str, list[Question]] = {"colour": [], "shape": [], "place": [], "relation": [], "size": [], "presence": []}

    def add(kind: str, text: str, answer: str) -> None:
        found[kind].append(Question(kind, text, answer))

    for thing, other, relation, size in both:
        if thing.shape != other.shape:
            add("colour", f"what color is the {SHAPES[thing.shape]}", COLOURS[thing.colour])
        if thing.colour != other.colour:
            add("shape", f"what shape is the {COLOURS[thing.colour]} thing", SHAPES[thing.shape])
        add("place", f"where is the {thing}", SPOTS[relation])
        add("relation", f"is the {thing} {relation} the {other}", "yes")
        add("relation", f"is the {thing} {MIRROR[relation]} the {other}", "no")
        add("size", f"what size is the {thing}", SIZES[size])
        add("presence", f"is there a {thing}", "yes")
    for absent in near_misses(meaning):
        add("presence", f"is there a {absent}", "no")
    return {kind: asked for kind, asked in found.items() if asked}


def near_misses(meaning: Meaning) -> tuple[Thing, ...]:
    """Two absent things, each with the colour of one object and the shape of the other if both differ, else the next colour."""
    first, second = meaning.things
    candidates = [Thing(first.colour, second.shape), Thing(second.colour, first.shape)]
    # Objects that share a colour or a shape have no such swap: use the next colour with the same shape.
    return tuple(thing if thing not in meaning.things else _next_absent(thing, meaning) for thing in candidates)


def _next_absent(thing: Thing, meaning: Meaning) -> Thing:
    colour = thing.colour
    while Thing(colour, thing.shape) in meaning.things:
        colour = (colour + 1) % len(COLOURS)
    return Thing(colour, thing.shape)


def ask(meaning: Meaning, sizes: Sizes, generator: random.Random) -> Question:
    """Draws a kind uniformly, then one of its questions; yes and no are equally frequent."""
    asked = questions(meaning, sizes)
    return generator.choice(asked[generator.choice(sorted(asked))])


def population() -> Iterator[tuple[Meaning, Sizes, Question, float]]:
    """Yields every scene, its sizes and question, with the probability (times a constant) that `ask` draws it."""
    for meaning in MEANINGS:
        for sizes in ((0, 0), (0, 1), (1, 0), (1, 1)):
            asked = questions(meaning, sizes)
            for kind in asked:
                for question in asked[kind]:
                    yield meaning, sizes, question, 1.0 / (len(asked) * len(asked[kind]))


def all_answers() -> list[str]:
    """Every possible answer, sorted."""
    return sorted({*COLOURS, *SHAPES, *SIZES, *SPOTS.values(), "yes", "no"})


def all_texts() -> list[str]:
    """Phrases that contain every word of the questions."""
    return ["what color is the shape thing where there is a size", *(str(thing) for thing in THINGS), *all_answers(), *MIRROR]
