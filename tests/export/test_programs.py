"""Exported towers and matcher against the model itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from albef_ds import interface
from albef_ds.cli.main import main
from albef_ds.convert.api import read_model
from albef_ds.errors import ConfigError
from albef_ds.export.programs import TOLERANCE, export, run_onnx
from tests.interface.tiny_models import model_folder, picture

TEXTS = ["a red cup", "the blue ball is left of the dog", "two cats", "the table"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and what `albef-ds export` made of it."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    room = tmp_path_factory.mktemp("export")
    folder = model_folder(room, "retrieval")
    assert main(["export", str(folder), str(room / "exported")]) == 0
    return folder, room / "exported"


def test_programs_agree_with_the_model_for_any_batch_and_length(folders: tuple[Path, Path]) -> None:
    folder, exported = folders
    model = interface.load(folder, device="cpu")
    pictures = [picture(seed) for seed in range(5)]
    images, (ids, mask) = model.prepare_images(pictures), model.prepare_texts(TEXTS)
    expected_images, expected_texts = model.encode_image(pictures), model.encode_text(TEXTS)
    expected_match = model.match(pictures[:4], TEXTS)
    image_features, image_embeds = run_onnx(exported / "image.onnx", {"images": images})
    text_features, text_embeds = run_onnx(exported / "text.onnx", {"token_ids": ids, "token_mask": mask})
    inputs = {"image_embeds": image_embeds[:4], "text_embeds": text_embeds, "token_mask": mask}
    [match] = run_onnx(exported / "match.onnx", inputs)
    for got, expected in ((image_features, expected_images), (text_features, expected_texts), (match, expected_match)):
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
    one = run_onnx(exported / "image.onnx", {"images": images[:1]})[0]
    torch.testing.assert_close(one, expected_images[:1], atol=TOLERANCE, rtol=0)
    programs = {name: torch.export.load(exported / f"{name}.pt2").module() for name in ("image", "text", "match")}
    with torch.no_grad():
        features, embeds = programs["image"](images)
        words, word_embeds = programs["text"](ids, mask)
        torch.testing.assert_close(features, expected_images, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(words, expected_texts, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(programs["match"](embeds[:4], word_embeds, mask), expected_match, atol=TOLERANCE, rtol=0)


def test_the_folder_says_how_inputs_are_prepared(folders: tuple[Path, Path]) -> None:
    _, exported = folders
    for name in ("config.json", "preprocessor_config.json", "vocab.txt", "README.md"):
        assert (exported / name).is_file(), name


def test_what_cannot_be_exported_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vqa = read_model(model_folder(tmp_path, "vqa")).model
    with pytest.raises(ConfigError, match="of kind vqa has no two towers"):
        export(vqa, tmp_path / "out", ["torch"])
    with pytest.raises(ConfigError, match="exists: give another name"):
        export(vqa, tmp_path, ["torch"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install albef-ds\[onnx\]"):
        export(vqa, tmp_path / "out", ["onnx"])
    assert not (tmp_path / "out").exists()
