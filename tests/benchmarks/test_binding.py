"""What the benchmark of both encoders asks for; the trainings are left out."""

from __future__ import annotations

import pytest

from benchmarks.binding import ABSENT, BOTH, places
from data_tools.scenes.meanings import COLOURS, MEANINGS, RELATIONS


def test_both_captions_of_a_meaning_tell_the_same_places() -> None:
    for meaning in MEANINGS:
        first, second = (places(caption) for caption in meaning.captions())
        assert first == second
        if meaning.first.colour != meaning.second.colour:
            assert RELATIONS[first[meaning.first.colour]] == meaning.relation


@pytest.mark.parametrize(
    ("caption", "colour", "place"),
    [
        ("a red cross left of a blue square", "blue", RELATIONS.index("right of")),
        ("a red cross below a blue square", "blue", RELATIONS.index("above")),
        ("a red cross above a blue square", "green", ABSENT),
        ("a red cross above a red square", "red", BOTH),
    ],
)
def test_a_colour_has_the_place_that_the_caption_says(caption: str, colour: str, place: int) -> None:
    assert places(caption)[COLOURS.index(colour)] == place
