"""Shards are plain tars with true offsets and checksums, the same bytes every time, and never half there."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
import xxhash

from albef_ds.common.errors import DataError, MachineError
from albef_ds.data.shards.format import Manifest, load_index
from data_tools.files.shard_writer import ShardWriter, write_shard


def samples(count: int) -> list[tuple[bytes, str, dict[str, object]]]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.bytes(int(rng.integers(1, 3000))),
            "jpg",
            {"captions": [f"caption {i} é"], "image_id": str(i), "source": "test", "b": i},
        )
        for i in range(count)
    ]


def write(folder: Path, count: int = 25, **limits: int) -> Manifest:
    writer = ShardWriter(folder, **(limits or {"samples_per_shard": 10}), info={"seed": 1})
    for image, extension, meta in samples(count):
        writer.add(image, extension, meta)
    return writer.close()


def test_tarfile_reads_back_what_was_added(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    assert [shard.num_samples for shard in manifest.shards] == [10, 10, 5]
    read = []
    for shard in manifest.shards:
        with tarfile.open(tmp_path / shard.name) as tar:
            names = tar.getnames()
            content = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
        read += [(names[i], content[i], json.loads(content[i + 1])) for i in range(0, len(names), 2)]
    assert [(name, image, meta) for name, image, meta in read] == [
        (f"{i:09d}.jpg", image, meta) for i, (image, _, meta) in enumerate(samples(25))
    ]


def test_gnu_tar_extracts_without_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "corpus", 3)
    (tmp_path / "out").mkdir()
    tar = shutil.which("tar")
    assert tar is not None
    done = subprocess.run(
        [tar, "-xf", str(tmp_path / "corpus/00000.tar"), "-C", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out/000000002.jpg").read_bytes() == samples(3)[2][0]


def test_the_webdataset_library_reads_the_shards(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    urls = [str(tmp_path / shard.name) for shard in manifest.shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["jpg"] for sample in read] == [image for image, _, _ in samples(25)]


def test_index_offsets_point_at_the_members(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    shard = manifest.shards[1]
    raw = (tmp_path / shard.name).read_bytes()
    for (start, size, meta_start, meta_size), (image, _, meta) in zip(
        load_index(tmp_path, shard), samples(25)[10:20], strict=True
    ):
        assert raw[start : start + size] == image
        assert json.loads(raw[meta_start : meta_start + meta_size]) == meta


def test_checksums_and_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    write(tmp_path)
    for shard in Manifest.load(tmp_path).shards:
        raw = (tmp_path / shard.name).read_bytes()
        assert (shard.num_bytes, shard.checksum) == (len(raw), xxhash.xxh3_128_hexdigest(raw))
        assert shard.index_checksum == xxhash.xxh3_128_hexdigest(
            (tmp_path / shard.name.replace(".tar", ".index.npy")).read_bytes()
        )


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b")
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_a_shard_written_alone_equals_the_one_written_in_sequence(tmp_path: Path) -> None:
    manifest = write(tmp_path / "all")
    (tmp_path / "one").mkdir()
    assert write_shard(tmp_path / "one", 2, 20, samples(25)[20:]) == manifest.shards[2]
    assert (tmp_path / "one/00002.tar").read_bytes() == (tmp_path / "all/00002.tar").read_bytes()


def test_no_shard_passes_the_byte_limit_unless_one_sample_does(tmp_path: Path) -> None:
    manifest = write(tmp_path, bytes_per_shard=20_000)
    assert len(manifest.shards) > 2
    assert all(shard.num_bytes <= 20_000 for shard in manifest.shards)
    assert [s.num_samples for s in write(tmp_path / "tiny", 3, bytes_per_shard=1).shards] == [1, 1, 1]


def test_an_exception_leaves_no_manifest_and_no_temporary_file_and_the_rerun_succeeds(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, samples_per_shard=2) as writer:
        for image, extension, meta in samples(5):
            writer.add(image, extension, meta)
        raise RuntimeError
    assert not list(tmp_path.glob("*.tmp")) and not (tmp_path / "manifest.json").exists()
    manifest = write(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.index.npy", "00000.tar", "manifest.json"]
    assert manifest.num_samples == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": []}, "captions"),
        ({"captions": "a string"}, "captions"),
        ({"image_id": 3}, "image_id"),
        ({"source": None}, "source"),
        ({"extra": float("nan")}, "not JSON"),
        ({"extra": "\ud800"}, "not JSON"),
    ],
)
def test_a_sample_outside_the_format_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    writer = ShardWriter(tmp_path, samples_per_shard=2)
    with pytest.raises(DataError, match=words):
        writer.add(b"x", "jpg", {"captions": ["a"], "image_id": "0", "source": "s"} | change)


def test_folders_of_other_origin_and_empty_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"someone else's")
    with pytest.raises(MachineError, match="another origin"):
        ShardWriter(tmp_path, samples_per_shard=2)
    with pytest.raises(DataError, match="no sample"):
        ShardWriter(tmp_path / "new", samples_per_shard=2).close()
    with pytest.raises(DataError, match="jpg, jpeg"):
        ShardWriter(tmp_path / "gif", samples_per_shard=2).add(b"x", "gif", {"captions": ["a"], "image_id": "0", "source": "s"})
    write(tmp_path / "done", 1)
    with pytest.raises(MachineError, match="append"):
        ShardWriter(tmp_path / "done", samples_per_shard=2)
