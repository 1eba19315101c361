"""Bulk caption arithmetic equals the plain definitions, one caption at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_tools.content import captions

WORDS = ["cat", "dog", "sits", "on", "a", "mat", "été", "42", "red", "house"]


def random_captions(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(count)]


def plain_set(caption: str) -> set[object]:
    parts = caption.split()
    return {*parts, *pairwise(parts)}


def test_words_are_those_of_split_wherever_they_stand() -> None:
    texts = random_captions(300)
    batch = captions.words(texts)
    assert batch.counts.tolist() == [len(text.split()) for text in texts]
    by_word: dict[str, set[int]] = {}
    flat = [word for text in texts for word in text.split()]
    for word, value in zip(flat, batch.hashes.tolist(), strict=True):
        by_word.setdefault(word, set()).add(value)
    assert all(len(values) == 1 for values in by_word.values())
    assert len({min(values) for values in by_word.values()}) == len(by_word)


def test_text_hashes_are_equal_exactly_for_equal_word_sequences() -> None:
    texts = random_captions(500, seed=1)
    hashes = captions.text_hashes(captions.words(texts)).tolist()
    assert len(set(hashes)) == len(set(texts))
    assert len(set(zip(texts, hashes, strict=True))) == len(set(texts))


def test_jaccard_equals_the_definition() -> None:
    left, right = random_captions(400, seed=2), random_captions(400, seed=3)
    sets = [captions.shingles(captions.words(texts)) for texts in (left, right)]
    expected = []
    for a, b in zip(left, right, strict=True):
        union = plain_set(a) | plain_set(b)
        expected.append(len(plain_set(a) & plain_set(b)) / len(union) if union else 1.0)
    np.testing.assert_allclose(captions.jaccard(*sets), expected)


def test_repeated_share_equals_the_definition() -> None:
    texts = random_captions(200, seed=4)
    expected = [1 - len(set(t.split())) / len(t.split()) if t else 0 for t in texts]
    np.testing.assert_allclose(captions.repeated_shares(captions.words(texts)), expected, atol=1e-6)


def test_bands_find_similar_captions_and_not_others() -> None:
    rng = np.random.default_rng(5)
    vocabulary = [f"w{i}" for i in range(3000)]
    base = [list(rng.choice(vocabulary, 16)) for _ in range(1500)]
    changed = [[*words[:-1], "other"] for words in base]
    keys = [
        captions.bands(captions.signature(captions.shingles(captions.words([" ".join(w) for w in t])))) for t in (base, changed)
    ]
    sets = [captions.shingles(captions.words([" ".join(w) for w in t])) for t in (base, changed)]
    alike = captions.jaccard(*sets) >= 0.7
    assert alike.sum() > 1400
    assert (keys[0] == keys[1]).any(axis=1)[alike].mean() > 0.97
    assert (keys[0] == np.roll(keys[0], 1, axis=0)).any(axis=1).mean() < 0.01


def test_batches_do_not_change_a_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_captions(50, seed=6)
    together = captions.signature(captions.shingles(captions.words(texts)))
    alone = [captions.signature(captions.shingles(captions.words([text])))[0] for text in texts]
    assert (together == alone).all()
    monkeypatch.setattr(captions, "_ROUND", 7)
    assert (captions.signature(captions.shingles(captions.words(texts))) == together).all()


def test_normalise_follows_the_released_rules() -> None:
    assert captions.normalise("  A <person>, in-the/park!  (Really?) ") == "a person in the park really"


@pytest.mark.parametrize(
    ("caption", "script"),
    [("a cat", "latin"), ("été à la plage", "latin"), ("кошка на стуле", "cyrillic"), ("椅子の上の猫", "cjk"), ("123 !", "none")],
)
def test_script_is_that_of_most_letters(caption: str, script: str) -> None:
    assert captions.script_of(caption) == script


def test_scripts_without_spaces_are_compared_by_sign() -> None:
    assert captions.words(["椅子の上の猫"]).counts.tolist() == [6]
