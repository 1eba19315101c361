"""`albef-ds serve` on the way to the page: every mistake is one line, and Ctrl-C is no mistake."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from tests.inference.tiny_models import model_folder, picture


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    for kind in ("retrieval", "vqa"):
        model_folder(folder, kind)
    for name in ("photos", "empty"):
        (folder / name).mkdir()
    picture(1).save(folder / "photos" / "a.png")
    return folder


def refusal(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    assert main(["serve", *arguments]) == 2
    said = capfd.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    return said.err


def test_without_the_packages_the_extra_is_named(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "fastapi is not installed: run `pip install albef-ds[serve]`" in refusal(["--model", "m", "--images", "i"], capfd)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "none", "--images", "photos"], "none does not exist"),
        (["--model", "retrieval", "--images", "nowhere"], "--images: nowhere is not a folder: give one with images"),
        (["--model", "retrieval", "--images", "empty"], "--images: empty holds no images"),
        (["--model", "vqa", "--images", "photos"], "match needs a model of kind pretrain or retrieval"),
        (["--model", "retrieval", "--images", "photos", "--answers-by", "retrieval"], "--answers-by: answer needs a model"),
        (["--model", "retrieval", "--images", "photos", "--port", "70000"], "--port 70000 is no port"),
        (["--model", "retrieval", "--images", "photos", "--host", "no.such.host.invalid"], "add --token-file"),
        (["--model", "retrieval", "--images", "photos", "--index", "photos/a.png"], "a.png is not a writable folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.chdir(place)
    assert words in refusal([*arguments, *([] if "--port" in arguments else ["--port", "0"])], capfd)


def test_a_port_that_is_taken_is_named(place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.chdir(place)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refusal(["--model", "retrieval", "--images", "photos", "--port", str(port)], capfd)
        assert f"port {port} of 127.0.0.1 cannot be used (Address already in use): give another one" in said
