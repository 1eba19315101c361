"""Captions are cleaned, tokenised and masked as in the released code."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from albef_ds.common.errors import DataError
from albef_ds.data.text.clean import clean_caption
from albef_ds.data.text.masking import IGNORED, mask_tokens
from albef_ds.data.text.tokenizer import DEFAULT_VOCAB, CaptionTokenizer, pad_ids


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A Dog, running!  (fast)", "a dog running fast"),
        ("a black-and-white photo w/ text", "a black and white photo w text"),
        ("<person> holds an umbrella", "person holds an umbrella"),
        ('#tag: "quote"; it\'s ~50*', "tag quote its 50"),
        ("  ... !? ", ""),
        ("one two three four\n", "one two three"),
    ],
)
def test_captions_are_cleaned_as_released(raw: str, clean: str) -> None:
    assert clean_caption(raw, max_words=30 if "one" not in raw else 3) == clean


def test_tokens_equal_those_of_transformers() -> None:
    from transformers import BertTokenizer

    theirs = BertTokenizer(str(DEFAULT_VOCAB), do_lower_case=True)
    ours = CaptionTokenizer(max_tokens=64)
    for text in (
        "a dog number 7",
        "piñata café naïve",
        "日本 emoji 😀",
        "antidisestablishmentarianism",
        "x" * 120,
        "o\u2019clock \u201chere\u201d",
    ):
        assert ours.encode(text).tolist() == theirs(text, add_special_tokens=True)["input_ids"][:-1], text


def test_no_sep_unless_asked_and_truncation_keeps_it() -> None:
    text = "a dog and a cat and a horse"
    plain, with_sep = CaptionTokenizer(max_tokens=5), CaptionTokenizer(max_tokens=5, sep_token=True)
    assert len(plain.encode(text)) == len(with_sep.encode(text)) == 5
    assert plain.encode(text)[0] == plain.cls_id and plain.sep_id not in plain.encode(text)
    assert with_sep.encode(text)[-1] == with_sep.sep_id
    assert pickle.loads(pickle.dumps(plain)).encode(text).tolist() == plain.encode(text).tolist()


def test_batches_are_padded_with_a_mask() -> None:
    ids, mask = CaptionTokenizer()(["a dog", "a"])
    assert ids.shape == (2, 3) and mask.tolist() == [[True, True, True], [True, True, False]] and ids[1, 2] == 0


@pytest.mark.parametrize("content", ["[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n", "[PAD]\n[UNK]\n[CLS]\n", "[PAD]\n[PAD]\n"])
def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="vocab_file"):
        CaptionTokenizer(str(path))


def _mask(ids: np.ndarray, seed: int, probability: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(ids, random.Random(seed), probability=probability, mask_id=103, vocab_size=30522)


def test_masking_follows_15_80_10_10_and_spares_cls() -> None:
    ids = np.array([101, *range(2000, 2040)])
    masked, labels = (np.stack(rows) for rows in zip(*(_mask(ids, seed) for seed in range(2000)), strict=True))
    assert (labels[:, 0] == IGNORED).all() and (masked[:, 0] == 101).all()
    chosen = labels != IGNORED
    assert (labels[chosen] == np.broadcast_to(ids, labels.shape)[chosen]).all()
    assert (masked[~chosen] == np.broadcast_to(ids, labels.shape)[~chosen]).all()
    share = chosen[:, 1:].mean()
    kept = (masked == labels)[chosen].mean()
    hidden = (masked == 103)[chosen].mean()
    # 80,000 tokens, 12,000 chosen: five standard deviations are 0.006, 0.014 and 0.018.
    assert abs(share - 0.15) < 0.008 and abs(kept - 0.1) < 0.015 and abs(hidden - 0.8) < 0.019


def test_a_short_caption_always_has_one_masked_token() -> None:
    ids = np.array([101, 2000])
    assert all((_mask(ids, seed)[1] != IGNORED).sum() == 1 for seed in range(50))
    assert (_mask(ids, 0, probability=0.0)[1] == IGNORED).all()
    assert (_mask(np.array([101]), 0)[1] == IGNORED).all()


def test_masking_is_a_function_of_its_generator() -> None:
    ids = np.array([101, *range(2000, 2020)])
    assert all((a == b).all() for a, b in zip(_mask(ids, 4), _mask(ids, 4), strict=True))
    assert any((a != b).any() for a, b in zip(_mask(ids, 4), _mask(ids, 5), strict=True))


def test_padding_labels_with_the_ignored_value() -> None:
    ids, mask = pad_ids([np.array([1, 2]), np.array([3])], fill=IGNORED)
    assert ids.tolist() == [[1, 2], [3, IGNORED]] and mask.sum() == 3
