"""Pictures through the whole chain: none is damaged, none is lost, and what is installed does not matter."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from albef_ds.data.images import jpeg
from albef_ds.data.images.read import decode_image
from albef_ds.data.shards.format import Manifest
from data_tools.cli import main
from tests.data.images.image_files import encoded, odd_files, reference, turned
from tests.data_tools.sample_images import folder_corpus, scene

SIZE = ["--samples-per-shard", "100", "--workers", "1", "--preset", "none", "--listed-order"]


def built(folder: Path, out: Path, *more: str) -> dict[str, tuple[str, bytes]]:
    """Each picture of the corpus built of a folder: listed name to extension and content."""
    arguments = ["build", "--source", f"x=folder:{folder}", "--work", f"{out}.work", "--out", str(out), *SIZE, *more]
    assert main(arguments) == 0
    found: dict[str, tuple[str, bytes]] = {}
    for shard in Manifest.load(out).shards:
        with tarfile.open(out / shard.name) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        for (name, content), (_, meta) in zip(members[::2], members[1::2], strict=True):
            found[json.loads(meta)["id"]] = name.rpartition(".")[2], content
    return found


def distinct_files() -> dict[str, bytes]:
    """The odd files, damaged ones, and others, so different that none is a duplicate of another."""
    files = {f"odd/{name}": data for name, data in odd_files().items()}
    deep = np.asarray(scene(1).convert("L")).astype(np.uint16)
    others = {
        "grey.png": encoded(Image.fromarray(deep * 257)),
        "float.tiff": encoded(Image.fromarray(np.asarray(scene(2).convert("L")) / np.float32(255)), "TIFF"),
        "clear.tiff": encoded(_clear(3), "TIFF"),
        "clear.jpg": encoded(_clear(4), "JPEG2000"),
        "turned.tiff": encoded(scene(5), "TIFF", exif=turned(6)),
        "turned.jpg": encoded(scene(6), "JPEG", exif=turned(8)),
        "several.jpg": encoded(scene(7), "MPO", save_all=True, append_images=[scene(8)], exif=turned(3)),
        "inks.jpg": encoded(scene(9).convert("CMYK"), "JPEG"),
        "large.jpg": encoded(scene(10, 200, 150), "JPEG", quality=92),
        "cut.jpg": encoded(scene(11), "JPEG")[:-200],
        "cut.png": encoded(scene(12))[:-300],
        "drawing.jpg": encoded(scene(13), "EPS"),
    }
    return files | others


def _clear(seed: int) -> Image.Image:
    image = scene(seed)
    image.putalpha(scene(seed + 100).convert("L"))
    return image


@pytest.mark.parametrize("more", [(), ("--max-side", "40", "--fast")], ids=["as they are", "smaller, scanned fast"])
def test_the_corpus_does_not_depend_on_what_is_installed(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = distinct_files()
    folder = folder_corpus(tmp_path / "in", {name: (data, [f"number {i}"]) for i, (name, data) in enumerate(files.items())})
    with_extra = built(folder, tmp_path / "with", "--radius", "-1", *more)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert built(folder, tmp_path / "without", "--radius", "-1", *more) == with_extra
    assert [path.read_bytes() for path in sorted((tmp_path / "with").glob("*.tar"))] == [
        path.read_bytes() for path in sorted((tmp_path / "without").glob("*.tar"))
    ]
    if more:
        return
    broken = {"cut.jpg", "cut.png", "drawing.jpg"}
    same = {name for name in files if name.startswith("odd/")} - {"odd/sampling.jpg"}  # of two images only, found by their pixels
    assert set(with_extra) >= set(files) - broken - same and not broken & set(with_extra)
    for name, (extension, content) in with_extra.items():
        kept = files[name].startswith((b"\xff\xd8", b"\x89PNG", b"RIFF"))
        assert (content == files[name]) == kept and extension == (name[-3:].replace("ebp", "webp") if kept else "png")
        if not name.startswith("odd/"):
            difference = np.asarray(decode_image(content, 10**6)).astype(int) - reference(files[name])
            assert np.abs(difference).max() <= 1, name


def test_evaluation_pictures_without_captions_are_hashed_and_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {f"{number}.png": encoded(scene(number)) for number in range(3)}
    silent = folder_corpus(tmp_path / "silent", {name: (data, []) for name, data in wanted.items()})
    (silent / "broken.png").write_bytes(b"no picture")
    hashes = tmp_path / "silent.parquet"
    arguments = [
        "hashes",
        "--source",
        f"e=folder:{silent}",
        "--work",
        str(tmp_path / "w"),
        "--out",
        str(hashes),
        "--workers",
        "1",
    ]
    assert main(arguments) == 0
    assert sorted(pq.read_table(hashes)["id"].to_pylist()) == sorted(wanted)
    training = {name: (data, [f"picture {name}"]) for name, data in wanted.items()} | {"new.png": (encoded(scene(9)), ["new"])}
    folder = folder_corpus(tmp_path / "in", training)
    assert set(built(folder, tmp_path / "out", "--against", f"e={hashes}")) == {"new.png"}
    capsys.readouterr()
    alone = ["build", "--source", f"x=folder:{silent}", "--work", str(tmp_path / "a"), "--out", str(tmp_path / "b"), *SIZE]
    assert main(alone) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
