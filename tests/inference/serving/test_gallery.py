"""What the server has while it indexes, from lists and shards, and that judged images are encoded once."""

from __future__ import annotations

import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.common.progress import Advance, spoken
from albef_ds.inference import search
from albef_ds.inference.inputs import Member
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.serving.gallery import Gallery, Part, Pictures
from albef_ds.inference.serving.service import Service
from tests.data.conftest import numbered_corpus
from tests.inference.serving.conftest import NUMBER, photos_in
from tests.inference.serving.served import serving, wait_for
from tests.inference.tiny_models import picture

Models = tuple[AlbefModel, AlbefModel]


def test_what_is_indexed_already_is_found_while_the_rest_is_encoded(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    photos, encode = photos_in(tmp_path), models[0].encode_image
    reached, go_on = threading.Event(), threading.Event()

    def slowly(given: Any, **options: Any) -> torch.Tensor:
        if "wide.jpg" in str(given):
            reached.set()
            assert go_on.wait(100)
        return encode(given, **options)

    monkeypatch.setattr(models[0], "encode_image", slowly)
    monkeypatch.setattr(search, "_BATCH", 1)
    monkeypatch.setattr(search, "_PARTIAL_SECONDS", 0.0)
    monkeypatch.setattr(search, "_PARTIAL_SHARE", 0)
    with serving(models[0], photos) as running:
        assert reached.wait(100)
        state = running.json("/api/status")
        done = state["indexing"]["done"]
        assert state["pictures"] == NUMBER - 1 and (done, state["indexing"]["total"]) == (NUMBER, NUMBER + 1)
        assert state["indexing"]["seconds_left"] >= 0
        assert {hit["name"] for hit in running.search({"text": "a red cup"})} == {f"{n}.png" for n in range(NUMBER - 1)}
        go_on.set()
        wait_for(lambda: running.json("/api/status")["indexing"] is None)
        assert running.json("/api/status")["pictures"] == NUMBER


def test_images_that_were_judged_are_not_encoded_again(models: Models, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    photos, encoded = photos_in(tmp_path), []
    with serving(models[0], photos) as running:
        encoder = models[0].task.model.visual_encoder  # type: ignore[union-attr]
        hook = encoder.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))  # type: ignore[operator, union-attr]
        first = running.search({"text": "a red cup"}, rerank=4)
        assert sum(encoded) == 4
        assert running.search({"text": "a red cup"}, rerank=4) == first and sum(encoded) == 4
        running.search({"text": "a red cup"}, {"text": "two dogs", "wanted": False}, rerank=NUMBER)
        assert sum(encoded) == NUMBER
        hook.remove()
    index = search.index_folder(models[0], photos)
    assert len(list(search.kept_tokens(models[0], index).folder.iterdir())) == NUMBER, "where the command finds them"


def test_lists_and_shards_are_shown_beside_folders(models: Models, tmp_path: Path) -> None:
    photos = photos_in(tmp_path)
    numbered_corpus(tmp_path / "corpus", 5, 3)
    (tmp_path / "list.txt").write_text(f"{photos / '0.png'}\n{photos / '1.png'}\n")
    places = [photos, tmp_path / "list.txt", tmp_path / "corpus" / "manifest.json"]
    gallery = Gallery(models[0], places, tmp_path / "indexes")
    assert gallery.refresh() and not gallery.refresh()
    assert len(gallery.now.places) == NUMBER + 2 + 5 and not list(photos.glob(".albef*"))
    for place, key in enumerate(gallery.now.keys):
        [(found, similarity), *_] = gallery.now.nearest(gallery.now.feature(place), NUMBER + 7)
        assert similarity == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(gallery.now.feature(found), gallery.now.feature(place))
        assert len(gallery.now.nearest(gallery.now.feature(place), 99)) == NUMBER + 7
        image = gallery.path(key)
        assert isinstance(image, Member) == (place >= NUMBER + 2) and models[0].picture(image).size[0] > 0


def test_images_that_are_not_shown_take_no_place_of_others(models: Models, tmp_path: Path) -> None:
    photos = photos_in(tmp_path)
    for number in range(3):
        picture(9).save(tmp_path / f"outside{number}.png")
        (photos / f"link{number}.png").symlink_to(tmp_path / f"outside{number}.png")
    gallery = Gallery(models[0], [photos])
    gallery.refresh()
    for number in (1, 2, NUMBER):
        found = gallery.now.nearest(models[0].encode_image(tmp_path / "outside0.png")[0], number)
        assert len(found) == number and not any("link" in gallery.now.name(place) for place, _ in found)


def test_the_recall_of_several_sources_is_the_least() -> None:
    parts = [Part(Namespace(approximate=Namespace(recall=recall))) for recall in (0.9, 0.5, 0.7)]  # type: ignore[arg-type]
    assert Pictures((Part(), *parts)).recall == 0.5 and Pictures((Part(),)).recall is None


def test_a_source_that_goes_and_comes_back_is_shown_again(models: Models, tmp_path: Path) -> None:
    photos, moved = photos_in(tmp_path), tmp_path / "moved"
    numbered_corpus(tmp_path / "corpus", 5, 3)
    (tmp_path / "list.txt").write_text(f"{photos / '0.png'}\n{photos / '1.png'}\n")
    for place, number in ((photos, NUMBER), (tmp_path / "list.txt", 2), (tmp_path / "corpus" / "manifest.json", 5)):
        gallery = Gallery(models[0], [place], tmp_path / "indexes")
        assert gallery.refresh() and len(gallery.now.keys) == number
        place.rename(moved)
        assert gallery.refresh() and not gallery.now.keys and str(place) in gallery.problem
        assert not gallery.refresh() and gallery.problem
        moved.rename(place)
        assert gallery.refresh() and len(gallery.now.keys) == number and not gallery.problem


def test_folders_are_listed_again_soon_after_a_long_indexing(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    changes, waits, clock = iter((True, False, False)), list[float](), iter((0.0, 600.0, 600.1, 600.1, 602.1))

    class Slow:
        def refresh(self, progress: Any) -> bool:
            return next(changes)

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            if len(waits) == 3:
                self.set()
            return True

    service = Service(models[0], Slow())  # type: ignore[arg-type]
    monkeypatch.setattr(service, "_ended", Event())
    monkeypatch.setattr("albef_ds.inference.serving.service.time", Namespace(monotonic=lambda: next(clock)))
    service._follow()
    assert waits == pytest.approx([1.0, 0.1 * 20, 2.0 * 20])


def test_the_end_waits_for_the_batch_that_is_encoded(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    photos, encode = photos_in(tmp_path), models[0].encode_image
    reached, go_on = threading.Event(), threading.Event()

    def slowly(given: Any, **options: Any) -> torch.Tensor:
        reached.set()
        assert go_on.wait(100)
        return encode(given, **options)

    monkeypatch.setattr(models[0], "encode_image", slowly)
    monkeypatch.setattr(search, "_BATCH", 2)
    service = Service(models[0], Gallery(models[0], [photos]))
    service.start()
    assert reached.wait(100)
    end = threading.Thread(target=service.close)
    end.start()
    assert service._ended.wait(100)
    go_on.set()
    end.join(100)
    assert not service._thread.is_alive() and not end.is_alive()
    monkeypatch.undo()
    assert search.index_folder(models[0], photos).added == NUMBER - 2, "the rest was given up"


def test_time_left_is_that_of_the_present_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 1000, 5))
    monkeypatch.setattr("albef_ds.common.progress.time", Namespace(monotonic=lambda: next(clock)))
    advance = Advance()
    assert advance.facts() == (0, 0, None)
    advance("images", 10, 50)
    assert advance.facts() == (10, 50, None)
    advance("images", 20, 50)
    assert advance.facts() == (20, 50, 15.0)
    for done, total in ((20, 40), (10, 40), (10, 50)):
        advance("images", done, total)
        assert advance.facts() == (done, total, None), "the images of another folder"
    assert [spoken(seconds) for seconds in (3.2, 99, 130, 7500)] == ["3 s", "99 s", "2 min", "2 h 5 min"]
