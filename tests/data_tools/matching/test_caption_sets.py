"""Sets of captions computed from Arrow's bytes are those of the texts one by one, and so is their similarity."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from data_tools.content import captions as text
from data_tools.matching import caption_sets
from data_tools.matching.caption_sets import sets_of, similar

_PIECES = [
    "cat",
    "Dog's",
    "<person>",
    "<<person>>",
    "a-b/c",
    "<per.son>",
    "猫が",
    "é",
    "ÀB",
    "xxxxx",
    "#1!",
    ";",
    " ",
    "\t",
    "\x1c",
]
_PIECES += ["a<person>b", "(hi)", "...", "<PERSON>", "İI", "<person", "日本<person>語", "<<person>>é"]


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    joiners = [" ", " ", ""]
    found = [draw.choice(joiners).join(draw.choice(_PIECES) for _ in range(draw.randrange(12))) for _ in range(count)]
    return ["", ".", *found, " ".join(f"w{i}" for i in range(300)), " ".join(f"w{i}" for i in range(250))]


def members(listed: list[str]) -> list[set[int]]:
    found = text.shingles(text.words([text.normalise(caption) for caption in listed]))
    parts = np.split(found.hashes >> np.uint64(32), found.starts[1:-1])
    return [set(part.tolist()) for part in parts]


def test_sets_are_those_of_the_texts_one_by_one() -> None:
    listed = texts(800)
    expected = members(listed)
    for array in (pa.array(listed, pa.string()), pa.array(["x", *listed], pa.string())[1:]):
        found = sets_of(array)
        assert [set(part.tolist()) for part in np.split(found.members, found.starts[1:-1])] == expected
        assert found.counts.tolist() == [len(one) for one in expected]
    assert sets_of(pa.array([], pa.string())).counts.tolist() == []


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 1.0])
def test_pairs_are_similar_as_their_sets_are(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_sets, "_ELEMENTS", 500)
    listed = texts(200)
    listed += [caption + " cat" for caption in listed]
    sets, expected = sets_of(pa.array(listed)), members(listed)
    draw = np.random.default_rng(1)
    left = np.concatenate((draw.integers(0, len(listed), 3000), np.arange(200), [202]))
    right = np.concatenate((draw.integers(0, len(listed), 3000), np.arange(200) + 204, [203]))
    jaccard = [len(expected[a] & expected[b]) / len(expected[a] | expected[b]) if expected[a] | expected[b] else 1.0
               for a, b in zip(left, right, strict=True)]  # fmt: skip
    found = similar(sets, left, right, threshold)
    assert found.tolist() == [value >= threshold for value in jaccard]
    assert 5 < found.sum() < 3000
