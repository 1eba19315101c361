"""`--json` prints one value and nothing else on standard output, with the same content as the text output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef_ds.cli.main import main
from albef_ds.config.recipes import RECIPES
from tests.inference.tiny_models import model_folder, picture


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("retrieval", "vqa"):
        model_folder(folder, kind)
    (folder / "photos").mkdir()
    for number in range(3):
        picture(number).save(folder / "photos" / f"{number}.png")
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    return folder


def answer(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> Any:
    capfd.readouterr()
    assert main([*arguments, "--json"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    return json.loads(said.out)


def test_search_ask_and_ground(models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    retrieval, vqa, photo = str(models / "retrieval"), str(models / "vqa"), str(models / "photos" / "0.png")
    page = tmp_path / "page.html"
    search = ["search", "--model", retrieval, "--images", str(models / "photos"), "--text", "a cup", "--output", str(page)]
    found = answer(search, capfd)
    assert (found["pictures"], found["new"], len(found["hits"])) == (3, 3, 3)
    assert [entry["path"] for entry in found["unreadable"]] == ["broken.png"] and 0 <= found["hits"][0]["match"] <= 1
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 3 and "<script" not in text and "a cup" in text
    asked = answer(["ask", "--model", vqa, "--image", photo, "--question", "what is red", "--question", "is it a cup"], capfd)
    assert list(asked) == ["what is red", "is it a cup"]
    boxes = ["--box", "0,0,20,20", "--box", "20,5,40,30"]
    ground = ["ground", "--model", retrieval, "--image", photo, "--text", "red cup", *boxes, "--output", str(tmp_path / "g.png")]
    [layer] = answer([*ground, "--layer", "1"], capfd)["layers"].items()
    assert layer[0] == "1" and len(layer[1]) == 2 and layer[1][0]["score"] >= layer[1][1]["score"]
    assert set(answer([*ground, "--sweep"], capfd)["layers"]) == {"0", "1"}


def test_evaluate(models: Path, scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = [f"data.test_annotations=hard={scenes / 'retrieval_test.json'}", f"data.image_root={scenes / 'images'}"]
    arguments = ["evaluate", str(models / "retrieval"), *settings, "task.k_test=2", "--output", str(tmp_path)]
    record = answer(arguments, capfd)
    assert record == json.loads((tmp_path / "metrics.json").read_text())
    assert set(record["splits"]) == {"hard"} and "retrieval/i2t_r1" in record["splits"]["hard"]


def test_recipes(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(answer(["recipes"], capfd)) == list(RECIPES)
    assert list(answer(["recipes", "debug"], capfd)) == ["debug"]
