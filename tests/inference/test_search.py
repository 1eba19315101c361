"""The index of a searched folder: images are encoded again whenever their features would be others."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from albef_ds.cli.main import main
from albef_ds.inference import model as interface
from albef_ds.inference import search
from albef_ds.inference.sources import source_of
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
    beside = {path.name for path in images.iterdir() if "albef" in path.name}
    rows = index.table.file
    assert beside == {".albef-index", ".albef-index.lock", ".albef-index.tokens", rows}


def test_an_index_of_an_earlier_version_is_taken_over(folder: Path, images: Path, tmp_path: Path) -> None:
    """Earlier versions kept one safetensors file, and the first ones hashed what features depend on by SHA-256."""
    model = interface.load(folder, device="cpu")
    index = search.index_folder(model, images, tmp_path / "index")
    stamps = json.dumps(index.source.listing())
    earlier = images / ".albef-index.safetensors"
    for old, added in ((search._identity(model, hashlib.sha256()), 0), (index.identity, 0), ("0" * 64, 3)):
        for target, file in ((None, earlier), (tmp_path / "my.safetensors", tmp_path / "my.safetensors")):
            save_file({"features": index.features}, file, {"model": old, "stamps": stamps})
            assert search.index_folder(model, images, target).added == added
            again = search.index_folder(model, images, target)
            assert again.added == 0 and torch.equal(again.features, index.features)
            assert earlier.exists() == (added > 0), "removed when it was taken over"
            again.file.unlink()
        earlier.unlink(missing_ok=True)


def test_what_another_process_adds_meanwhile_stays(folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = interface.load(folder, device="cpu"), interface.load(folder, device="cpu")
    encode = first.encode_image

    def slowly(given: Any) -> torch.Tensor:
        monkeypatch.undo()
        picture(9).save(images / "later.png")
        picture(8).save(images / "gone.png")
        assert _added(other, images) == 5
        (images / "gone.png").unlink()
        return encode(given)

    monkeypatch.setattr(first, "encode_image", slowly)
    assert _added(first, images) == 3  # it had seen three
    index = search.index_folder(first, images)
    assert (index.added, index.paths) == (0, ("0.png", "1.png", "2.png", "later.png"))


def test_an_indexing_that_is_broken_off_is_kept_so_far(folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = interface.load(folder, device="cpu")
    encode, calls, shown = model.encode_image, [], []

    def broken_off(given: Any) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(given)

    monkeypatch.setattr(model, "encode_image", broken_off)
    monkeypatch.setattr(search, "_BATCH", 1)
    monkeypatch.setattr(search, "_PARTIAL_SECONDS", 0.0)
    monkeypatch.setattr(search, "_PARTIAL_SHARE", 0)
    with pytest.raises(KeyboardInterrupt):
        search.index_images(model, source_of(images), partial=lambda index: shown.append(index.paths))
    assert shown == [(), ("0.png",), ("0.png", "1.png")]
    assert _added(model, images) == 1


@pytest.mark.parametrize("suffix", [".gif", ".bmp", ".tif", ".TIFF", ".avif", ".heic"])
def test_formats_that_are_found_are_read(suffix: str, folder: Path, tmp_path: Path) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    form = {".tif": "TIFF", ".TIFF": "TIFF", ".heic": "HEIF"}.get(suffix, suffix[1:].upper())
    picture(1).save(tmp_path / f"a{suffix}", form)
    assert search.index_folder(interface.load(folder, device="cpu"), tmp_path).paths == (f"a{suffix}",)


def test_many_texts_and_paths_for_other_programs(
    folder: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (images / "broken.png").write_bytes(b"no image")
    (tmp_path / "queries.txt").write_text("a red cup\n\ntwo dogs\n", encoding="utf-8-sig")
    command = ["search", "--model", str(folder), "--images", str(images), "--rerank", "2"]
    assert main([*command, "--text", "a ball", "--texts", "queries.txt", "--json-lines"]) == 0
    said = capfd.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["text"] for line in lines] == ["a ball", "a red cup", "two dogs"] and said.err.startswith("left out: broken.png")
    assert main([*command, "--text", "a ball", "--paths-only"]) == 0
    assert capfd.readouterr().out.splitlines() == [hit["path"] for hit in lines[0]["hits"]]
    os.replace(images / "1.png", images / os.fsdecode(b"\xff<b>.png"))
    assert main([*command, "--text", "a ball"]) == 0
    assert capfd.readouterr().out and "?&lt;b&gt;.png" in Path("search.html").read_text()
    Path("search.html").unlink()
    assert main([*command, "--texts", "queries.txt"]) == 0
    assert "two dogs:" in capfd.readouterr().out.splitlines() and not (tmp_path / "search.html").exists()
    for wrong, words in (
        ([], "no text is given"),
        (["--texts", "nowhere.txt"], "--texts nowhere.txt cannot be read"),
        (["--texts", "queries.txt", "--paths-only"], "2 texts are given"),
        (["--text", "a ball", "--index", str(images / "broken.png" / "x")], "error: --index: "),
        (["--text", "a ball", "--index", str(images / "0.png")], "0.png is no index: give another file"),
        (["--texts", "queries.txt", "--output", "x.html"], "--output is the page of one text"),
    ):
        assert main([*command, *wrong]) == 2
        assert words in capfd.readouterr().err
