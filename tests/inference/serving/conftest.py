"""Small models, and one server for the tests that do not change what it serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from albef_ds.inference import model as interface
from tests.inference.serving.served import Served, serving
from tests.inference.tiny_models import model_folder, picture

NUMBER = 6


def photos_in(folder: Path) -> Path:
    """A folder of images, one of them in a subfolder, and a broken one."""
    (folder / "photos" / "trip").mkdir(parents=True)
    for number in range(NUMBER - 1):
        picture(number).save(folder / "photos" / f"{number}.png")
    picture(NUMBER - 1, 120, 80).save(folder / "photos" / "trip" / "wide.jpg")
    (folder / "photos" / "broken.jpg").write_bytes(b"no image")
    return folder / "photos"


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[interface.AlbefModel, interface.AlbefModel]:
    """One for search, one for questions."""
    folder = tmp_path_factory.mktemp("models")
    return (
        interface.load(model_folder(folder, "retrieval"), device="cpu"),
        interface.load(model_folder(folder, "vqa"), device="cpu"),
    )


@pytest.fixture(scope="package")
def served(
    models: tuple[interface.AlbefModel, interface.AlbefModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with serving(models[0], photos_in(tmp_path_factory.mktemp("served")), answering=models[1]) as running:
        yield running
