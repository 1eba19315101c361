"""The published rules of VQA's text normalisation, case by case."""

from __future__ import annotations

import pytest

from albef_ds.data.annotations.vqa_text import CONTRACTIONS, PUNCTUATION, normalize_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # line breaks and tabs
        ("red\nblue\tgreen ", "red blue green"),
        # case
        ("Red", "red"),
        # articles
        ("a red cat on the mat an", "red cat on mat"),
        # number words
        ("none", "0"),
        ("zero one two three four five", "0 1 2 3 4 5"),
        ("six seven eight nine ten eleven", "6 7 8 9 10 eleven"),
        # full stops: dropped, but not before a digit
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        # punctuation beside a space vanishes, inside a word it becomes a space
        ("yes , no", "yes no"),
        ("left/right", "left right"),
        ("black-and-white", "black and white"),
        ("what?", "what"),
        # a comma inside a number drops every mark of the answer
        ("1,000", "1000"),
        ("1,000/2", "10002"),
        # contractions get their apostrophe
        ("dont", "don't"),
        ("isnt it", "isn't it"),
        # ... as the published table has them, and no other way
        ("couldntve", "couldntve"),
        ("lets go", "lets go"),
        ("somebody'd", "somebodyd"),
        ("somebodyd", "somebodyd"),
        ("'ows'at", "'ow's'at"),
        ("im", "im"),
        # the published code removes at most 32 full stops
        ("u." * 33, "u" * 32 + "u."),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("don't", "don't"),
        # runs of spaces
        ("a   big    dog", "big dog"),
        ("", ""),
    ],
)
def test_a_rule(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize("mark", PUNCTUATION)
def test_every_mark_becomes_a_space_inside_a_word_and_vanishes_beside_a_space(mark: str) -> None:
    assert normalize_answer(f"x{mark}y") == "x y"
    assert normalize_answer(f"x {mark}y") == "x y"
    assert normalize_answer(f"x{mark} y") == "x y"


@pytest.mark.parametrize("bare", sorted(CONTRACTIONS))
def test_every_contraction_is_restored(bare: str) -> None:
    assert normalize_answer(bare) == CONTRACTIONS[bare] or bare != bare.lower()


def test_words_that_are_no_contractions_stay() -> None:
    assert normalize_answer("well were hell") == "well were hell"
