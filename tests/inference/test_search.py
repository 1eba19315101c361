"""The index of a searched folder: images are encoded again whenever their features would be others."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from albef_ds.inference import model as interface
from albef_ds.inference import search
from tests.inference.tiny_models import model_folder, picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), "retrieval")


def _added(model: interface.AlbefModel, images: Path) -> int:
    return search.index_folder(model, images).added


def test_an_image_is_encoded_once(folder: Path, images: Path) -> None:
    model = interface.load(folder, device="cpu")
    assert [_added(model, images), _added(model, images)] == [3, 0]


@pytest.mark.parametrize("changed", ["heads", "precision", "package"])
def test_what_features_depend_on_makes_a_new_index(
    changed: str, folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _added(interface.load(folder, device="cpu"), images)
    heads = ["model.vision.num_heads=4"] if changed == "heads" else []
    dtype = torch.bfloat16 if changed == "precision" else None
    if changed == "package":
        monkeypatch.setattr(search, "_version", lambda package: "another")
    assert _added(interface.load(folder, device="cpu", overrides=heads, dtype=dtype), images) == 3


def test_a_setting_of_training_keeps_the_index(folder: Path, images: Path) -> None:
    model = interface.load(folder, device="cpu")
    _added(model, images)
    vision = replace(model.config.model.vision, frozen=True)
    model.config = replace(model.config, model=replace(model.config.model, vision=vision))
    assert _added(model, images) == 0


def test_a_second_search_encodes_no_image_and_finds_the_same(folder: Path, images: Path) -> None:
    model, encoded, hits = interface.load(folder, device="cpu"), [], []
    model.task.model.visual_encoder.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))  # type: ignore[union-attr, operator]
    for text in ("a red cup", "a blue cup", "a red cup"):
        index = search.index_folder(model, images)
        hits.append(search.search(model, index, text, top=3, rerank=3, kept=search.kept_tokens(model, index)))
    assert sum(encoded) == 6, "once for the index, once for the tokens"
    assert hits[2] == hits[0] == search.search(model, index, "a red cup", top=3, rerank=3)
    assert {path.name for path in images.iterdir() if "albef" in path.name} == {search.INDEX_NAME, ".albef-index.tokens"}


def test_an_index_of_an_earlier_version_is_kept_and_written_anew(folder: Path, images: Path) -> None:
    """Earlier versions hashed what features depend on by SHA-256."""
    model = interface.load(folder, device="cpu")
    index = search.index_folder(model, images)
    stamps = load_metadata(index.file)["stamps"]
    for old, added in ((search._identity(model, hashlib.sha256()), 0), ("0" * 64, 3)):
        save_file({"features": index.features}, index.file, {"model": old, "stamps": stamps})
        again = search.index_folder(model, images)
        assert again.added == added and torch.equal(again.features, index.features)
        assert load_metadata(index.file)["model"] == index.identity


def load_metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as stored:
        found: dict[str, str] = stored.metadata()
        return found
