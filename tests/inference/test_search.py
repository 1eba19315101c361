"""The index of a searched folder: images are encoded again whenever their features would be others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

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
