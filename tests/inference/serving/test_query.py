"""Queries of several parts: the ranking equals one computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from albef_ds.common.errors import ConfigError
from albef_ds.inference.inputs import ImageInput
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.search import Index, index_folder, search
from albef_ds.inference.serving.query import Term, combined, rank
from tests.inference.serving.conftest import photos_in

Models = tuple[AlbefModel, AlbefModel]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_in(tmp_path_factory.mktemp("query"))


class Images:
    """The images of an index, some of which may be gone."""

    def __init__(self, index: Index, gone: tuple[int, ...] = ()) -> None:
        self._index, self._gone = index, gone

    def nearest(self, query: torch.Tensor, k: int) -> list[tuple[int, float]]:
        return self._index.nearest(query[None], k)[0]

    def image(self, place: int) -> ImageInput | None:
        name = self._index.paths[place]
        return Path("/nowhere") / name if place in self._gone else self._index.source.image(name)


def _words(model: AlbefModel, text: str, wanted: bool = True) -> Term:
    return Term(model.encode_text(text)[0], wanted, text)


def test_words_alone_rank_as_the_command_does(models: Models, photos: Path) -> None:
    model, index = models[0], index_folder(models[0], photos)
    paths = [photos / name for name in index.paths]
    found = rank(model, [_words(model, "a red cup")], Images(index), top=4, rerank=3)
    expected = search(model, index, "a red cup", top=4, rerank=3)
    assert [paths[hit.place] for hit in found] == [hit.path for hit in expected]
    for hit, other in zip(found, expected, strict=True):
        assert hit.match == pytest.approx(other.match, abs=1e-6)


def test_wanted_and_unwanted_parts_are_judged_together(models: Models, photos: Path) -> None:
    model, index = models[0], index_folder(models[0], photos)
    paths = [photos / name for name in index.paths]
    terms = [_words(model, "a red cup"), _words(model, "two dogs", wanted=False), Term(index.features[2])]
    found = rank(model, terms, Images(index), top=6, rerank=6)
    for hit in found:
        yes, no = model.match(paths[hit.place], ["a red cup", "two dogs"]).tolist()
        assert hit.match == pytest.approx(yes * (1 - no), abs=1e-6)
    scores = [hit.match or 0.0 for hit in found]
    assert scores == sorted(scores, reverse=True) and len(found) == 6
    direction = terms[0].feature - terms[1].feature + terms[2].feature
    torch.testing.assert_close(combined(terms), direction / direction.norm())
    [first] = [hit for hit in found if hit.place == 0]
    assert first.similarity == pytest.approx(float(index.features[0] @ combined(terms)), abs=1e-6)


def test_an_image_alone_is_not_judged_and_finds_itself(models: Models, photos: Path) -> None:
    index = index_folder(models[0], photos)
    found = rank(models[0], [Term(index.features[3])], Images(index), top=2, rerank=6)
    assert found[0].place == 3 and found[0].match is None
    far = rank(models[0], [Term(index.features[3], wanted=False)], Images(index), top=6, rerank=0)
    assert far[-1].place == 3


def test_a_file_that_is_gone_is_left_out(models: Models, photos: Path) -> None:
    index = index_folder(models[0], photos)
    found = rank(models[0], [_words(models[0], "a cup")], Images(index, gone=(1,)), top=6, rerank=6)
    assert len(found) == 5 and 1 not in [hit.place for hit in found]


def test_parts_that_cancel_and_no_parts_are_refused(models: Models) -> None:
    one = _words(models[0], "a cup")
    with pytest.raises(ConfigError, match="cancel"):
        combined([one, Term(one.feature, wanted=False)])
    with pytest.raises(ConfigError, match="empty"):
        combined([])
    assert math.isclose(float(combined([one]).norm()), 1.0, rel_tol=1e-6)
