"""The endpoints of a running server: search, grounding, questions, images, folders that change, many requests at once."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from albef_ds.inference.model import AlbefModel
from tests.inference.serving.conftest import NUMBER, photos_in
from tests.inference.serving.served import Served, serving, wait_for
from tests.inference.tiny_models import picture

Models = tuple[AlbefModel, AlbefModel]


def test_the_state_names_the_broken_file(served: Served) -> None:
    state = served.json("/api/status")
    assert (state["pictures"], state["num_unreadable"], state["can_ask"], state["indexing"]) == (NUMBER, 1, True, None)
    assert state["unreadable"][0]["name"] == "broken.jpg" and str(served.photos) not in state["unreadable"][0]["reason"]


def test_words_and_images_find_images(served: Served, models: Models) -> None:
    hits = served.search({"text": "a red cup"}, top=3, rerank=6)
    assert len(hits) == 3
    for hit in hits:
        assert hit["match"] == pytest.approx(float(models[0].match(served.photos / hit["name"], "a red cup")), abs=1e-6)
    content = base64.b64encode((served.photos / "3.png").read_bytes()).decode()
    for image in (content, f"data:image/png;base64,{content}"):
        assert served.search({"image": image}, top=1)[0]["name"] == "3.png"
    wide = served.key("trip/wide.jpg")
    assert served.search({"picture": wide}, top=1)[0]["picture"] == wide
    assert served.search({"picture": wide, "wanted": False}, top=NUMBER)[-1]["picture"] == wide


def test_images_come_as_the_model_reads_them_in_a_bounded_size(served: Served) -> None:
    status, headers, body = served.request("GET", f"/api/pictures/{served.key('trip/wide.jpg')}?size=320")
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(body)).size == (120, 80)


def test_words_are_shown_in_an_image(served: Served) -> None:
    found = served.json("/api/ground", {"picture": served.key("trip/wide.jpg"), "text": "red cup"})
    assert [part["word"] for part in found["words"]] == ["[CLS]", "red", "cup"]
    for url in (found["image"], *(part["image"] for part in found["words"])):
        assert Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))).size == (120, 80)


def test_questions_are_answered_by_the_other_model(served: Served, models: Models) -> None:
    found = served.json("/api/ask", {"picture": served.key("0.png"), "question": "what is red", "top": 3})
    [expected] = models[1].answers(served.photos / "0.png", "what is red", top=3)
    assert [part["answer"] for part in found["answers"]] == [text for text, _ in expected]


def test_the_endpoints_are_described(served: Served) -> None:
    described = served.json("/openapi.json")
    assert set(described["paths"]) == {"/api/status", "/api/search", "/api/ground", "/api/ask", "/api/pictures/{key}"}
    page = served.request("GET", "/api")[2].decode()
    assert all(path in page for path in described["paths"]) and "<script" not in page
    assert all(name in page for name in ("rerank", "SearchHit", "QueryTerm"))


def test_two_hundred_requests_at_once_are_all_answered(served: Served) -> None:
    expected = {text: served.search({"text": text}, rerank=2) for text in ("a red cup", "two dogs", "a blue ball")}
    texts = [list(expected)[number % 3] for number in range(200)]
    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(lambda text: served.search({"text": text}, rerank=2), texts))
    assert [hits == expected[text] for hits, text in zip(found, texts, strict=True)] == [True] * 200


def test_folders_are_followed(models: Models, tmp_path: Path) -> None:
    photos = photos_in(tmp_path)
    pytest.importorskip("fastapi")
    with serving(models[0], photos) as running:
        assert running.refusal("/api/ask", {"picture": running.key("0.png"), "question": "what"}).startswith(
            "no model that answers"
        )
        old = running.key("1.png")
        picture(77).save(tmp_path / "new.png")
        (tmp_path / "new.png").rename(photos / "new.png")
        (photos / "1.png").unlink()
        picture(78).save(photos / "broken.jpg")
        wait_for(lambda: {"new.png", "broken.jpg"} <= set(running.names()))
        image = base64.b64encode((photos / "new.png").read_bytes()).decode()
        assert running.search({"image": image}, top=1)[0]["name"] == "new.png"
        assert running.request("GET", f"/api/pictures/{old}")[0] == 400
        state = running.json("/api/status")
        assert (state["pictures"], state["num_unreadable"]) == (NUMBER + 1, 0)
        for file in photos.rglob("*.*g"):
            file.unlink()
        wait_for(lambda: not running.gallery.now.keys)
        assert "no image" in running.refusal("/api/search", {"terms": [{"text": "a cup"}]})


def test_a_file_that_breaks_harms_one_request(models: Models, tmp_path: Path) -> None:
    photos = photos_in(tmp_path)
    pytest.importorskip("fastapi")
    with serving(models[0], photos) as running:
        broken = running.key("2.png")
        (photos / "2.png").write_bytes(b"torn")
        for path, body in ((f"/api/pictures/{broken}", None), ("/api/ground", {"picture": broken, "text": "cup"})):
            status, _, content = running.request("GET" if body is None else "POST", path, body)
            error = json.loads(content)["error"]
            assert status == 400 and (
                error.startswith("2.png is not a usable image") or error.startswith("there is no such image")
            )
        hits = running.search({"text": "a cup"}, rerank=6)
        assert "2.png" not in [hit["name"] for hit in hits] and len(hits) == NUMBER - 1
