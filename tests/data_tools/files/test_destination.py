"""Corpora in an object store have the bytes of local ones, whatever fails on the way, and appear complete or not at all."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest
from albef_ds.data.store import objects
from albef_ds.data.store.objects import Store
from data_tools.cli import main
from data_tools.files.destination import StoreDestination
from tests import servers
from tests.data_tools.sample_images import folder_corpus, jpeg


@pytest.fixture(scope="module", autouse=True)
def _bucket(s3: servers.Faults) -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")


@pytest.fixture(autouse=True)
def _short_pauses(s3: servers.Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sources: 24 pictures, and 9 of which 3 are among the first."""
    folder = tmp_path_factory.mktemp("raw")
    for name, numbers in (("one", range(24)), ("two", range(21, 30))):
        (folder / name).mkdir()
        folder_corpus(folder / name, {f"{i:02d}.jpg": (jpeg(i), [f"picture number {i}"]) for i in numbers})
    return {"one": folder / "one", "two": folder / "two"}


def make(command: str, source: Path, work: Path, out: str | Path, *more: str) -> int:
    options = ["--samples-per-shard", "5", "--chunk-rows", "8", "--workers", "1", *more]
    return main([command, "--source", f"raw=folder:{source}", "--work", str(work), "--out", str(out), *options])


def make_until_killed(source: Path, work: Path, out: str) -> None:
    """Builds until the third tar is to be sent: a process of its own ends there as by a power failure."""
    put = StoreDestination.put

    def put_or_die(self: StoreDestination, name: str, path: Path) -> None:
        if name == "00002.tar":
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, name, path)

    StoreDestination.put = put_or_die  # type: ignore[method-assign]
    make("build", source, work, out)


@pytest.fixture(scope="module")
def local(raw: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the first source, as written locally; beside it `work`."""
    folder = tmp_path_factory.mktemp("local")
    assert make("build", raw["one"], folder / "work", folder / "out") == 0
    return folder / "out"


def contents(url: str) -> dict[str, bytes]:
    store = Store(url)
    return {name: store.read(name) for name in store.sizes() or {}}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_gets_the_bytes_of_a_folder_under_faults_and_grows_by_append(
    s3: servers.Faults, raw: dict[str, Path], local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://bucket/grows"
    s3.unavailable = s3.reset = 0.1
    assert make("build", raw["one"], tmp_path / "work", url) == 0
    assert contents(url) == files(local) and not list((tmp_path / "work" / "uploads").iterdir())
    s3.requests.clear()
    assert make("build", raw["one"], tmp_path / "work", url) == 0
    assert not [path for method, path, _ in s3.requests if method in ("PUT", "DELETE")]  # it was done
    assert main(["verify", url, "--workers", "1"]) == 0 and "s3://bucket/grows: sound" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(local, copy)
    for place, work in ((url, "more"), (copy, "copied")):
        assert make("append", raw["two"], tmp_path / work, place) == 0
    assert contents(url) == files(copy) and Manifest.load(copy).num_samples == 30
    assert servers.SECRET not in "".join(capsys.readouterr())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or servers.SECRET.encode() not in path.read_bytes()


def test_a_killed_run_leaves_no_corpus_and_goes_on(s3: servers.Faults, raw: dict[str, Path], local: Path, tmp_path: Path) -> None:
    import s3fs

    url, system = "s3://bucket/killed", s3fs.S3FileSystem()
    child = multiprocessing.get_context("fork").Process(target=make_until_killed, args=(raw["one"], tmp_path / "work", url))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert "00001.tar" in contents(url) and "manifest.json" not in contents(url)
    with pytest.raises(DataError, match=r"manifest.json does not exist"):
        Store(url).read("manifest.json")
    done = set(contents(url))
    # What the kill of a multipart upload leaves, and somebody else's.
    for key in ("killed/00003.tar", "killed/00077.tar", "other/00003.tar"):
        system.call_s3("create_multipart_upload", Bucket="bucket", Key=key)
    system.pipe_file("bucket/killed/00099.tar", b"left by a larger plan")
    s3.requests.clear()
    assert make("build", raw["one"], tmp_path / "work", url) == 0
    assert contents(url) == files(local)
    again = {path.rpartition("/")[2] for method, path, _ in s3.requests if method == "PUT" and path.endswith(".tar")}
    written = {name for name in done if name.endswith(".tar")}
    assert len(again & written) <= 1  # the one whose mark was not yet written
    uploads = system.call_s3("list_multipart_uploads", Bucket="bucket")["Uploads"]
    assert [upload["Key"] for upload in uploads] == ["other/00003.tar"]


def test_verify_and_index_find_and_mend_what_a_store_has_damaged(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import s3fs

    url, system = servers.upload(local, "s3://bucket/damaged"), s3fs.S3FileSystem()
    right = contents(url)
    changed = bytearray(right["00001.tar"])
    changed[600] ^= 1
    system.pipe_file("bucket/damaged/00001.tar", bytes(changed))
    system.pipe_file("bucket/damaged/00009.tar", b"another program's")
    system.rm_file("bucket/damaged/00002.index.npy")
    assert main(["verify", url, "--workers", "1"]) == 1
    said = capsys.readouterr().out
    for part in ("00001.tar: its checksum differs", "00009.tar: not in the manifest", "00002.tar: "):
        assert part in said
    system.pipe_file("bucket/damaged/00001.tar", right["00001.tar"])
    system.rm_file("bucket/damaged/00009.tar")
    assert main(["index", url]) == 0 and contents(url) == right


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("s3://bucket/foreign", "holds tars of another origin"),
        ("s3://bucket/full", "already holds a corpus"),
        ("s3://key:hush@bucket/x", "put credentials into the environment"),
        ("https://host/x", "cannot be written to"),
    ],
)
def test_other_places_are_refused(
    raw: dict[str, Path], local: Path, tmp_path: Path, out: str, problem: str, capsys: pytest.CaptureFixture[Any]
) -> None:
    import s3fs

    pytest.importorskip("aiohttp")
    s3fs.S3FileSystem().pipe_file("bucket/foreign/00000.tar", b"theirs")
    s3fs.S3FileSystem().pipe_file("bucket/full/manifest.json", (local / "manifest.json").read_bytes())
    shutil.copytree(local.parent / "work", tmp_path / "work", ignore=shutil.ignore_patterns("shard"))
    options = ["--work", str(tmp_path / "work"), "--out", out, "--workers", "1"]
    assert main(["shard", *options]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and "hush" not in error
