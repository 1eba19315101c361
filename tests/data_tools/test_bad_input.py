"""Bad input ends as a counted reason or as one line, and what is good beside it arrives: every picture is accounted for."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.common.errors import ConfigError
from albef_ds.data.shards.format import Manifest
from data_tools.cli import main
from data_tools.execution.stage_folder import load_stage
from data_tools.readers import reader_for
from data_tools.readers.source import Problems, SourceSpec
from tests.data_tools.sample_images import encoded, folder_corpus, jpeg, tar_of

SIZE = ["--samples-per-shard", "50", "--workers", "1"]


def test_a_corpus_of_every_oddity_loses_nothing_unsaid(tmp_path: Path) -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    files = {
        "good.jpg": (jpeg(1), ["a good picture"]),
        "bomb.png": (bomb, ["a bomb"]),
        "empty.jpg": (b"", ["an empty file"]),
        "cut.jpg": (jpeg(2)[:-300], ["a cut file"]),
        "page.jpg": (b"<html>", ["a page"]),
        f"{'n' * 240}.jpg": (jpeg(3), ["a long name"]),
        "a.b.c.jpg": (jpeg(4), ["dots in the name"]),
    }
    folder = folder_corpus(tmp_path / "folder", files)
    members = [
        (f"{'m' * 300}.jpg", jpeg(5)), (f"{'m' * 300}.txt", b"a member of a long name"),
        ("k.e.y.jpg", jpeg(6)), ("k.e.y.txt", b"a key with dots"),
        ("twice.jpg", jpeg(7)), ("twice.txt", b"the first of its key"),
        ("twice.jpg", jpeg(8)), ("twice.txt", b"the second of its key"),
        ("/absolute.jpg", jpeg(9)), ("../outside.jpg", jpeg(10)),
        ("silent.jpg", jpeg(11)),
    ]  # fmt: skip
    tar_of(tmp_path / "odd.tar", members)
    work, out = tmp_path / "work", tmp_path / "out"
    sources = ["--source", f"folder=folder:{folder}", "--source", f"tar=webdataset:{tmp_path}/odd.tar"]
    assert main(["build", *sources, "--work", str(work), "--out", str(out), *SIZE]) == 0
    info = Manifest.load(out).info["sources"]
    assert {name: (entry["listed"], entry["broken"], entry["kept"]) for name, entry in info.items()} == {
        "folder": (7, 4, 3), "tar": (5, 0, 4)
    }  # fmt: skip
    assert info["tar"]["problems"] == {"unsafe member name": 2, "key that comes again": 1}
    reasons = pq.read_table(work / "plan" / "decisions.parquet")["reason"].to_pylist()
    assert sorted(reasons) == [
        "broken: cut off", "broken: empty file", "broken: not a picture", "broken: too many pixels", "missing: no caption"
    ]  # fmt: skip
    assert not [path for path in tmp_path.rglob("*") if path.name in ("absolute.jpg", "outside.jpg")]


@contextmanager
def without_privileges() -> Iterator[None]:
    """For root, who may read everything: be nobody inside the block."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_folder_that_cannot_be_read_is_counted_and_the_others_are_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = folder_corpus(Path(name), {f"{place}/1.jpg": (b"x", ["text"]) for place in ("closed", "open")})
        root.chmod(0o755)
        (root / "closed").chmod(0)
        spec, problems = SourceSpec("x", "folder", name), Problems()
        try:
            with without_privileges():
                records = list(reader_for(spec).read(spec, name, problems))
        finally:
            (root / "closed").chmod(0o755)
    assert [record.id for record in records] == ["open/1.jpg"]
    assert problems.counts == {"unreadable folder": 1}


def test_broken_json_and_missing_columns_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.json").write_text('[{"image": "a.jpg", "caption": "x"},\n {"image": }]')
    (tmp_path / "table.csv").write_text("place,words\na.jpg,x\n")
    for kind, path, words in (("json", "list.json", "line 2"), ("table", "table.csv", "no column image")):
        work = tmp_path / kind
        assert main(["catalog", "--source", f"x={kind}:{tmp_path / path}", "--work", str(work)]) == 2
        error = capsys.readouterr().err
        assert words in error and path in error and error.count("\n") == 1


def test_columns_to_keep_reach_the_samples_and_unknown_ones_are_named(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "caption": "x", "image_id": "7", "source": "painter", "tags": ["b", "c"]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    for keep, expected in (("source+tags", {"source": "painter", "tags": ["b", "c"]}), ("", {})):
        spec = SourceSpec("x", "table", str(tmp_path / "t.jsonl"), keep=keep)
        (record,) = reader_for(spec).read(spec, spec.path, Problems())
        assert record.extra == expected
    spec = SourceSpec("x", "table", str(tmp_path / "t.jsonl"), keep="colour")
    with pytest.raises(ConfigError, match="no column colour, only image, caption"):
        list(reader_for(spec).read(spec, spec.path, Problems()))


def test_a_small_real_corpus_goes_through_the_chain_and_every_picture_is_accounted_for(tmp_path: Path) -> None:
    emoji = emoji_corpus(tmp_path / "cache")
    work, out = tmp_path / "work", tmp_path / "out"
    source = ["--source", f"emoji=shards:{emoji / 'val'}", "--evaluate", f"test=shards:{emoji / 'test'}"]
    assert main(["build", *source, "--work", str(work), "--out", str(out), "--listed-order", *SIZE]) == 0
    assert main(["verify", str(out), "--decode", "--workers", "1"]) == 0
    manifest, plan = Manifest.load(out), load_stage(work, "plan").summary
    dropped = sum(count["pictures"] for count in plan["counts"].values())
    assert manifest.num_samples + dropped == Manifest.load(emoji / "val").num_samples == 150
    assert manifest.num_samples >= 120 and manifest.info["evaluation_sets"]["test"]["pictures"] == 300
    assert "Contamination" in (work / "report.html").read_text()


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_corpus(tmp_path / "folder", {"good.jpg": (jpeg(1), ["a good picture"])})
    (tmp_path / "file").write_text("")
    assert main(["catalog", "--source", f"a=folder:{folder}", "--work", str(tmp_path / "file" / "work"), "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path / 'file' / 'work'}/catalog cannot be written (Not a directory)" in said
