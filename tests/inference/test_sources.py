"""Images of folders, of lists of paths and of shards: what is listed, what is read, and what an index of them finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.common.errors import DataError
from albef_ds.inference import model as interface
from albef_ds.inference.search import index_images, kept_tokens, search
from albef_ds.inference.sources import ListedImages, source_of
from tests.data.conftest import numbered_corpus
from tests.data.conftest import picture as encoded
from tests.inference.tiny_models import model_folder, picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> interface.AlbefModel:
    return interface.load(model_folder(tmp_path_factory.mktemp("model"), "retrieval"), device="cpu")


def test_a_folder_lists_images_in_subfolders_and_follows_no_links_to_folders(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", ".hidden/d.gif"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / "photos" / name, "PNG")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "folder.jpg").mkdir()
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "photos" / "b.PNG")
    (tmp_path / "photos" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    source = source_of(tmp_path / "photos")
    assert list(source.listing()) == [".hidden/d.gif", "a.jpg", "b.PNG", "link.png", "sub/c.webp"]
    facts = (tmp_path / "photos" / "a.jpg").stat()
    assert source.listing()["a.jpg"] == f"{facts.st_size}:{facts.st_mtime_ns}"


def test_a_list_names_files_anywhere(model: interface.AlbefModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path(os.fsdecode(b"\xff odd.png"))
    (tmp_path / "sub").mkdir()
    for number, path in enumerate((Path("sub/1.png"), odd, tmp_path / "sub" / "2.png")):
        picture(number).save(path)
    listed = Path("list.txt")
    listed.write_bytes(
        b"\xef\xbb\xbfsub/1.png\r\n\n" + os.fsencode(odd) + b"\n" + os.fsencode(tmp_path / "sub" / "2.png") + 2 * b"\ngone.png\r"
    )
    source = source_of(listed)
    index = index_images(model, source)
    assert [os.path.relpath(path) for path in index.paths] == ["sub/1.png", "sub/2.png", str(odd)]
    assert index.unreadable[0][0] == str(tmp_path / "gone.png") and "No such file" in index.unreadable[0][1]
    assert index.file == Path("list.txt.albef-index") and index_images(model, source).added == 0
    hits = search(model, index, "a red cup", top=3, rerank=3, kept=kept_tokens(model, index))
    assert {hit.path for hit in hits} == set(map(Path, index.paths))


def test_shards_are_searched_as_their_images_are(model: interface.AlbefModel, tmp_path: Path) -> None:
    numbered_corpus(tmp_path / "corpus", 5, 3)
    source = source_of(tmp_path / "corpus" / "manifest.json")
    index = index_images(model, source)
    assert len(index.paths) == 5 and index.paths[3].startswith("00001.tar/")
    assert [name.rpartition("/")[2] for name in index.paths] == [f"{number:09d}" for number in range(5)], "the keys in the tars"
    (tmp_path / "one.png").write_bytes(encoded(3))
    torch.testing.assert_close(index.features[3], model.encode_image(tmp_path / "one.png")[0], atol=1e-6, rtol=0)
    kept = kept_tokens(model, index)
    hits = search(model, index, "a red cup", top=5, rerank=5, kept=kept)
    assert hits == search(model, index, "a red cup", top=5, rerank=5, kept=kept) and len(list(kept.folder.iterdir())) == 5
    [hit] = [hit for hit in hits if hit.path.name == index.paths[3].rpartition("/")[2]]
    assert hit.match == pytest.approx(float(model.match(tmp_path / "one.png", "a red cup")), abs=1e-6)
    assert model.picture(hit.image).size == model.picture(tmp_path / "one.png").size
    with pytest.raises(DataError, match="no longer there"):
        source.image("00007.tar/000000001")


def test_images_that_a_corpus_gets_are_added(model: interface.AlbefModel, tmp_path: Path) -> None:
    numbered_corpus(tmp_path / "corpus", 5, 3)
    numbered_corpus(tmp_path / "longer", 9, 3)
    source = source_of(tmp_path / "corpus" / "manifest.json")
    assert index_images(model, source).added == 5
    for file in (tmp_path / "longer").iterdir():
        file.replace(tmp_path / "corpus" / file.name)
    index = index_images(model, source)
    assert (len(index.paths), index.added) == (9, 6), "the second shard is another one, the first is not"


def test_what_is_no_source_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "image.bin").write_bytes(b"\0\1\2\n")
    numbered_corpus(tmp_path / "corpus", 2, 3)
    with pytest.raises(DataError, match="is not a folder"):
        source_of(tmp_path / "gone")
    with pytest.raises(DataError, match="not a text file"):
        source_of(tmp_path / "image.bin").listing()
    with pytest.raises(DataError, match=r"holds shards: give .*manifest\.json"):
        source_of(tmp_path / "corpus").listing()
    (tmp_path / "list").write_text("")
    assert ListedImages(tmp_path / "list").listing() == {}


def test_the_command_takes_lists_and_shards(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = model_folder(tmp_path, "retrieval")
    numbered_corpus(tmp_path / "corpus", 5, 3)
    picture(3).save(tmp_path / "a.png")
    Path("list.txt").write_text("a.png\n")
    command = ["search", "--model", str(folder), "--text", "a red cup", "--json", "--images"]
    assert main([*command, "list.txt"]) == 0
    assert json.loads(capfd.readouterr().out)["hits"][0]["path"] == str(tmp_path / "a.png")
    assert main([*command, "corpus/manifest.json"]) == 0
    assert json.loads(capfd.readouterr().out)["pictures"] == 5 and Path("search.html").stat().st_size > 1000
    assert main([*command, "nowhere"]) == 2
    assert capfd.readouterr().err.startswith("albef-ds: error: --images: nowhere is not a folder: ")
