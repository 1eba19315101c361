"""An evaluation set holds every image and caption once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from albef_ds.common.errors import DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.evaluation_sets.corpus import RetrievalSet

CONFIG = DataConfig()


def test_every_image_and_caption_is_there_once_with_its_owner(make_corpus: Any) -> None:
    gallery = RetrievalSet(make_corpus(7), CONFIG, image_size=16)
    assert (gallery.num_images, gallery.num_captions) == (7, 14)
    assert gallery.captions[4:6] == ["a dog number 2", "the cat of 2"]
    assert gallery.caption_image.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_samples_of_one_image_id_are_one_image(make_corpus: Any) -> None:
    same = {"image_id": "id0"}
    gallery = RetrievalSet(
        make_corpus(4, broken={2: {**same, "captions": ["a dog number 0", "one more"]}}), CONFIG, image_size=16
    )
    assert gallery.keys == ["000000000", "000000001", "000000003"]
    assert [c for c, i in zip(gallery.captions, gallery.caption_image, strict=True) if i == 0] == [
        "a dog number 0",
        "the cat of 0",
        "one more",
    ]


def test_batches_are_the_same_however_they_are_cut(make_corpus: Any) -> None:
    gallery = RetrievalSet(make_corpus(7), CONFIG, image_size=16)
    whole = gallery.images(range(7))
    assert whole.shape == (7, 3, 16, 16)
    assert torch.equal(gallery.images(range(1, 7, 2)), whole[1::2])
    lengths = torch.cat([mask.sum(1) for _, mask in gallery.text_batches(4)])
    assert lengths.tolist() == [mask.sum().item() for _, mask in gallery.text_batches(1)] and len(lengths) == 14


def test_limit_takes_the_first_samples(make_corpus: Any) -> None:
    folder = make_corpus(7, per_shard=3)
    assert RetrievalSet(folder, CONFIG, image_size=16, limit=4).keys == RetrievalSet(folder, CONFIG, image_size=16).keys[:4]


def test_a_broken_evaluation_sample_is_an_error(make_corpus: Any) -> None:
    with pytest.raises(DataError, match=r"000000002 .* empty after cleaning"):
        RetrievalSet(make_corpus(4, broken={2: {"captions": ["fine", "?!"]}}, name="text"), CONFIG, image_size=16)
    gallery = RetrievalSet(make_corpus(4, broken={1: {"image": b"none"}}, name="image"), CONFIG, image_size=16)
    with pytest.raises(DataError, match=r"000000001 .* broken image"):
        gallery.images(range(2))
