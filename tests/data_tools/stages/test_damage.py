"""Damage outside the tars: one line with the mend, or the same output as before, never other output."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest, load_index
from data_tools.cli import main
from data_tools.execution.stage_folder import SUMS_NAME
from data_tools.matching.semantic_duplicates import load_features
from data_tools.stages.hash_files import SCHEMA, load_hashes, write_hashes
from tests.data_tools.sample_images import folder_corpus, jpeg


def build(root: Path, *more: str) -> int:
    source = ["--source", f"x=folder:{root / 'in'}", "--samples-per-shard", "3", "--workers", "1"]
    return main(["build", *source, "--work", str(root / "work"), "--out", str(root / "out"), *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished work folder and its corpus of five samples."""
    root = tmp_path_factory.mktemp("built")
    folder_corpus(root / "in", {f"{i}.jpg": (jpeg(i), [f"picture {i}"]) for i in range(5)})
    assert build(root) == 0
    return root


def again(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Writes the corpus of `tmp_path`'s work folder again: exit code, and its last line of errors."""
    shutil.rmtree(tmp_path / "work" / "shard", ignore_errors=True)
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    code = main(["build", "--source", f"x=folder:{built / 'in'}", "--samples-per-shard", "3", "--workers", "1", *places])
    return code, capsys.readouterr().err.strip()


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("stage", ["catalog", "scan", "filter", "dedup", "decontaminate", "plan"])
def test_a_damaged_file_of_a_finished_stage_is_named_or_made_again(
    built: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in (built / "work" / stage).iterdir() if path.is_file())
    random.Random(stage).shuffle(names)
    for name in names[:3]:
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(built / "work", tmp_path / "work")
        flip(tmp_path / "work" / stage / name)
        code, said = again(built, tmp_path, capsys)
        if code == 0:
            assert contents(tmp_path / "out") == contents(built / "out"), name
        else:
            assert code == 2 and said.count("\n") == 0 and "damaged" in said and f"`albef-data {stage}" in said, (name, said)
        assert code == 0 or stage in ("catalog", "scan"), f"{stage} is a reduction, which is made again"


def test_a_missing_file_of_a_stage_is_named_with_its_mend(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built / "work", tmp_path / "work")
    (tmp_path / "work" / "scan" / "00000-00000.parquet").unlink()
    code, said = again(built, tmp_path, capsys)
    assert code == 0 or (
        code == 2 and "it is missing" in said and "again with restart" in said and "`albef-data scan --restart`" in said
    )
    (tmp_path / "work" / "filter" / "kept.npy").unlink()
    (tmp_path / "work" / "filter" / "kept.npy").mkdir()
    assert main(["scan", "--work", str(tmp_path / "work"), "--workers", "1", "--restart"]) == 0
    assert again(built, tmp_path, capsys)[0] == 0 and contents(tmp_path / "out") == contents(built / "out")


def test_a_work_folder_of_an_older_version_has_no_checksums_and_goes_on(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built / "work", tmp_path / "work")
    for path in (tmp_path / "work").rglob(SUMS_NAME):
        path.unlink()
    assert again(built, tmp_path, capsys)[0] == 0 and contents(tmp_path / "out") == contents(built / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw | {"shards": [{**raw["shards"][0], "num_samples": "3"}, *raw["shards"][1:]]},
        lambda raw: raw | {"shards": [{**raw["shards"][0], "num_bytes": -5}, *raw["shards"][1:]]},
        lambda raw: raw | {"shards": [{**raw["shards"][0], "name": 7}, *raw["shards"][1:]]},
        lambda raw: raw | {"shards": [{**raw["shards"][0], "name": "../00000.tar"}, *raw["shards"][1:]]},
        lambda raw: raw | {"shards": [{**raw["shards"][0], "checksum": None}, *raw["shards"][1:]]},
        lambda raw: raw | {"shards": 2 * raw["shards"][:1], "num_samples": 2 * raw["shards"][0]["num_samples"]},
        lambda raw: raw | {"shards": {"name": "00000.tar"}},
        lambda raw: raw | {"shards": 5},
        lambda raw: raw | {"info": 5},
        lambda raw: raw | {"num_samples": 4},
        lambda raw: raw | {"info": {**raw["info"], "tool": "albef-dato"}},
        lambda raw: [raw],
    ],
)
def test_a_manifest_of_wrong_types_is_one_line(
    built: Path, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    raw = json.loads((built / "out" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(change(raw)))
    with pytest.raises(DataError, match=r"manifest\.json") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_with_a_changed_or_lost_byte_is_refused_with_its_mend(built: Path, tmp_path: Path) -> None:
    entry = Manifest.load(built / "out").shards[0]
    whole = (built / "out" / "00000.index.npy").read_bytes()
    for content in (
        whole[:-1],
        whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        b"",
        b"PK\x03\x04",
        whole.replace(b"}", b"{", 1),
    ):
        (tmp_path / "00000.index.npy").write_bytes(content)
        with pytest.raises(DataError, match="albef-data index"):
            load_index(tmp_path, entry)


def test_fingerprints_with_a_changed_bit_are_found_by_verify_and_refused_by_append(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built / "out", tmp_path / "out")
    path = tmp_path / "out" / "fingerprints.parquet"
    table = pq.read_table(path)
    changed = pa.array([value.as_py() ^ (i == 2) for i, value in enumerate(table["phash"])], pa.uint64())
    table = table.set_column(table.column_names.index("phash"), "phash", changed)
    pq.write_table(table.replace_schema_metadata(pq.read_metadata(path).metadata), path)
    assert main(["verify", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "fingerprints.parquet: damaged: make it again with `albef-data hashes`" in capsys.readouterr().out
    arguments = [
        "--source",
        f"x=folder:{built / 'in'}",
        "--samples-per-shard",
        "3",
        "--workers",
        "1",
        "--work",
        str(tmp_path / "w"),
    ]
    assert main(["append", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "another digest" in said and said.count("\n") == 1
    hashes = ["hashes", "--work", str(tmp_path / "h"), "--out", str(path), "--workers", "1"]
    assert main([*hashes, "--source", f"corpus=shards:{tmp_path / 'out'}"]) == 0
    assert main(["verify", str(tmp_path / "out"), "--workers", "1"]) == 0


def test_the_digest_of_a_hash_file_does_not_depend_on_its_parts_and_older_files_have_none(built: Path, tmp_path: Path) -> None:
    table = pq.read_table(built / "out" / "fingerprints.parquet")
    digests = set()
    for parts in ([table], [table.slice(0, 2), table.slice(2)], [table.slice(i, 1) for i in range(len(table))]):
        write_hashes(tmp_path / "h.parquet", parts)
        digests.add(pq.read_metadata(tmp_path / "h.parquet").metadata[b"albef-data digest"])
        assert len(load_hashes("x", tmp_path / "h.parquet")) == 5
    assert len(digests) == 1
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "old.parquet")
    assert len(load_hashes("x", tmp_path / "old.parquet")) == 5


def test_arrow_opens_a_hash_file_itself(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's threads may abort the process at its end if they have read through a file of Python: 3 of 10 runs ended so."""
    opened, real = [], pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda source: opened.append(source) or real(source))
    path = built / "out" / "fingerprints.parquet"
    load_hashes("x", path)
    assert opened == [path]


def test_a_hash_file_without_rows_and_features_without_width_are_one_line(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "h.parquet")
    with pytest.raises(DataError, match="holds no image"):
        load_hashes("x", tmp_path / "h.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")  # never waited for
    with pytest.raises(DataError, match="not a regular file"):
        load_hashes("x", tmp_path / "pipe.parquet")
    with pytest.raises(DataError, match="not a regular file"):
        load_features(tmp_path / "pipe.parquet", 4)
    np.save(tmp_path / "f.npy", np.zeros((4, 0), np.float32))
    with pytest.raises(DataError, match="float32 4x0: give one float row"):
        load_features(tmp_path / "f.npy", 4)
