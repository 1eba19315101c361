"""The whole chain from the command line: the same bytes every way it is run, stopped or shared out; mistakes in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import webdataset

from albef_ds.data.shards.format import Manifest
from data_tools.cli import main
from tests.data_tools.sample_images import encoded, folder_corpus, jpeg, scene

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 files: 30 pictures, 5 byte copies, 3 that are broken, 2 in formats that shards do not hold."""
    pictures = {f"{i:02d}.jpg": (jpeg(i), [f"picture number {i}"]) for i in range(30)}
    pictures |= {f"copy{i}.jpg": (jpeg(i), [f"copy of {i}"]) for i in range(5)}
    pictures |= {"cut.jpg": (jpeg(31)[:-99], ["cut"]), "empty.png": (b"", ["empty"]), "page.jpg": (b"<html>", ["page"])}
    pictures |= {"x.gif": (encoded(scene(40), "GIF"), ["a gif"]), "y.bmp": (encoded(scene(41), "BMP"), ["a bmp"])}
    return folder_corpus(tmp_path_factory.mktemp("raw"), pictures)


@pytest.fixture(scope="module")
def corpus(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("whole")
    assert build(raw, folder / "work", folder / "out", "--workers", "1") == 0
    return folder / "out"


def build(raw: Path, work: Path, out: Path, *more: str) -> int:
    options = ["--samples-per-shard", "5", "--chunk-rows", "4"]
    return main(["build", "--source", f"raw=folder:{raw}", "--work", str(work), "--out", str(out), *options, *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_command_makes_a_sound_corpus_with_its_numbers(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.load(corpus)
    assert (manifest.num_samples, len(manifest.shards)) == (32, 7)
    source = manifest.info["sources"]["raw"]
    assert {key: source[key] for key in ("listed", "present", "broken", "kept", "kept_captions")} == {
        "listed": 40, "present": 40, "broken": 3, "kept": 32, "kept_captions": 37
    }  # fmt: skip
    assert main(["verify", str(corpus), "--decode", "--workers", "1"]) == 0
    samples = list(webdataset.WebDataset([str(corpus / s.name) for s in manifest.shards], shardshuffle=False).decode())
    assert len(samples) == 32
    assert sorted(caption for sample in samples for caption in sample["json"]["captions"])[:2] == ["a bmp", "a gif"]
    report = (corpus.parent / "work/report.html").read_text()
    assert "duplicate: same bytes" in report and "data:image/jpeg;base64" in report and "<script" not in report


def test_a_second_run_does_nothing_and_other_settings_need_restart(raw: Path, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus.parent, tmp_path / "c")
    out, work = tmp_path / "c/out", tmp_path / "c/work"
    assert build(raw, work, tmp_path / "fresh", "--workers", "1") == 2  # another folder is another setting
    stamps = {path: path.stat().st_mtime_ns for path in (work / "scan").iterdir()}
    shutil.rmtree(out)
    assert build(raw, work, out, "--workers", "1", "--restart") == 0
    assert contents(out) == contents(corpus)
    assert stamps.keys() == {*(work / "scan").iterdir()}


def test_a_process_pool_and_array_tasks_give_the_same_bytes(raw: Path, corpus: Path, tmp_path: Path) -> None:
    work, out = str(tmp_path / "work"), str(tmp_path / "out")
    steps = [
        (["catalog", "--source", f"raw=folder:{raw}", "--chunk-rows", "4"], False),
        (["scan"], True),
        (["filter"], False),
        (["dedup"], False),
        (["decontaminate"], False),
        (["plan", "--samples-per-shard", "5"], False),
        (["shard", "--out", out], True),
    ]
    for step, shared in steps:
        for index in range(3 if shared else 1):
            # The tasks of an array run in any order, here backwards.
            share = ["--workers", "1", "--task-index", str(2 - index), "--num-tasks", "3"] if shared else []
            assert main([*step, "--work", work, *share]) == 0
    assert contents(tmp_path / "out") == contents(corpus)


def test_a_dask_cluster_gives_the_same_bytes(raw: Path, corpus: Path, tmp_path: Path) -> None:
    with distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        executor = cluster.scheduler_address.replace("tcp://", "dask://")
        assert build(raw, tmp_path / "work", tmp_path / "out", "--executor", executor, "--partitions", "3") == 0
    assert contents(tmp_path / "out") == contents(corpus)


def kill_when(command: list[str], sign: Path) -> int:
    """Run `command` in a process group of its own and kill the group as soon as `sign` exists; return the exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def test_kill_9_at_any_moment_costs_a_chunk_and_changes_no_byte(raw: Path, corpus: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "tests.data_tools.chain_main", str(raw), str(work), str(tmp_path / "out")]
    kills = 0
    for stage in ("scan", "shard"):
        kills += kill_when(command, work / stage / "settings.json") != 0
    assert kill_when(command, work / "never") == 0
    assert kills >= 1
    assert contents(tmp_path / "out") == contents(corpus)


def test_a_kill_between_the_manifest_and_the_mark_of_the_stage_is_continued(tmp_path: Path) -> None:
    folder = folder_corpus(tmp_path / "raw", {f"{i}.jpg": (jpeg(i), ["x y"]) for i in range(4)})
    more = folder_corpus(tmp_path / "more", {f"{i}.jpg": (jpeg(i), ["z"]) for i in range(9, 12)})
    out = tmp_path / "out"
    for command, source in (("build", folder), ("append", more)):
        work = tmp_path / command
        arguments = [command, "--source", f"raw=folder:{source}", "--work", str(work), "--out", str(out)]
        arguments += ["--samples-per-shard", "2", "--workers", "1"]
        assert main(arguments) == 0
        before = contents(out)
        (work / "shard" / "done.json").unlink()
        (out / "_writing").touch()
        assert main(arguments) == 0
        assert contents(out) == before


def members(group: int) -> list[int]:
    """Processes of a process group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_workers_end_when_the_run_alone_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.data_tools.execution.workers"]
    with subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        assert len(members(process.pid)) >= 3
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(600):
            if not members(process.pid):
                return
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("workers outlived the run that started them")


def test_done_chunks_are_not_done_again(raw: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert main(["catalog", "--source", f"raw=folder:{raw}", "--work", str(work), "--chunk-rows", "4"]) == 0
    assert main(["scan", "--work", str(work), "--workers", "1", "--num-tasks", "2"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (work / "scan").glob("*.parquet")}
    assert 0 < len(before) < 20
    assert main(["scan", "--work", str(work), "--workers", "1"]) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_missing_files_are_retried_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_corpus(tmp_path / "raw", {f"{i}.jpg": (jpeg(i), ["x y"]) for i in range(4)})
    work = ["--work", str(tmp_path / "work")]
    assert main(["catalog", "--source", f"raw=folder:{folder}", "--chunk-rows", "2", *work]) == 0
    (folder / "3.jpg").unlink()
    assert main(["scan", "--workers", "1", *work]) == 0
    assert "3 sound, 1 missing file" in capsys.readouterr().out
    (folder / "3.jpg").write_bytes(jpeg(3))
    first = (tmp_path / "work/scan/00000-00000.parquet").stat().st_mtime_ns
    assert main(["scan", "--workers", "1", "--retry", *work]) == 0
    assert "4 sound" in capsys.readouterr().out
    assert (tmp_path / "work/scan/00000-00000.parquet").stat().st_mtime_ns == first


def test_a_source_that_changed_after_the_scan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_corpus(tmp_path / "raw", {f"{i}.jpg": (jpeg(i), ["x y"]) for i in range(4)})
    work, out = ["--work", str(tmp_path / "work")], ["--out", str(tmp_path / "out")]
    for step in (["catalog", "--source", f"raw=folder:{folder}"], ["scan"], ["filter"], ["dedup"], ["decontaminate"]):
        assert main([*step, *work]) == 0
    assert main(["plan", "--samples-per-shard", "4", *work]) == 0
    (folder / "2.jpg").write_bytes(jpeg(77))
    assert main(["shard", "--workers", "1", *work, *out]) == 2
    assert "2.jpg has changed since it was scanned" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.tar*"))


def test_large_pictures_are_scaled_when_asked(raw: Path, tmp_path: Path) -> None:
    assert build(raw, tmp_path / "work", tmp_path / "out", "--workers", "1", "--max-side", "32", "--quality", "80") == 0
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    sizes = {
        image.size for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("pil") for image in pictures_of(sample)
    }
    assert sizes == {(32, 24)}


def pictures_of(sample: dict[str, Any]) -> Iterator[Any]:
    return (sample[extension] for extension in ("jpg", "png") if extension in sample)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda f: patch(f / "00002.tar", 5000, b"\xff\x00\xff"),
    "a cut tar": lambda f: (f / "00002.tar").write_bytes((f / "00002.tar").read_bytes()[:-700]),
    "a missing tar": lambda f: (f / "00002.tar").unlink(),
    "a missing index": lambda f: (f / "00002.index.npy").unlink(),
    "a wrong index": lambda f: np.save(f / "00002.index.npy", np.load(f / "00002.index.npy") + 512),
    "a stray tar": lambda f: (f / "00099.tar").write_bytes(b"x"),
    "a swapped tar": lambda f: shutil.copy(f / "00003.tar", f / "00002.tar"),
}


def patch(path: Path, offset: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_finds(damage: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(corpus, tmp_path / "c")
    DAMAGE[damage](tmp_path / "c")
    assert main(["verify", str(tmp_path / "c"), "--workers", "1"]) == 1
    assert ("00099" if "stray" in damage else "00002") in capsys.readouterr().out


def test_offsets_can_be_rebuilt(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "c")
    for path in (tmp_path / "c").glob("*.npy"):
        path.write_bytes(b"damaged")
    assert main(["index", str(tmp_path / "c")]) == 0
    assert contents(tmp_path / "c") == contents(corpus)
    patch(tmp_path / "c" / "00001.tar", 5000, b"\xff\x00\xff")
    assert main(["index", str(tmp_path / "c")]) == 2  # checksums of damaged members would hide the damage


LIMITED = """
import resource, sys
from data_tools.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


def test_no_room_is_one_line_and_the_rerun_continues(raw: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ["build", "--source", f"raw=folder:{raw}", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    arguments += ["--samples-per-shard", "5", "--chunk-rows", "4", "--workers", "1"]
    command = [sys.executable, "-c", LIMITED, "15000", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no room left" in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert main(arguments) == 0
    assert contents(tmp_path / "out") == contents(corpus)


def test_mistakes_are_one_line_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, out = ["--work", str(tmp_path / "w")], ["--out", str(tmp_path / "o")]
    size = ["--samples-per-shard", "5"]
    for arguments, words in [
        (["scan", *work], "albef-data catalog"),
        (["build", *work, *out, *size], "sources are not given"),
        (["build", "--source", "x", *work, *out, *size], "NAME=KIND:PATH"),
        (["build", "--source", "x=folder:/nowhere", *work, *out, *size], "not a local folder"),
        (["build", "--source", "x=folder:/nowhere", *work, *out], "shard size"),
        (["build", "--source", "x=folder:/etc", "--executor", "ray://x", *work, *out, *size], "dask://"),
        (["scan", "--task-index", "3", "--num-tasks", "3", *work], "task_index is 3"),
        (["verify", str(tmp_path)], "manifest.json does not exist"),
        (["append", "--source", "x=folder:/etc", *work, *out, *size], "manifest.json does not exist"),
        (["hashes", "--source", "x=json:/nowhere.json", "--work", str(tmp_path / "h"), "--out", "f"], "no .json file"),
    ]:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_help_teaches_kinds_rules_and_the_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in [
        (["--help"], "albef-data build"),
        (["build", "--help"], "img2dataset"),
        (["filter", "--help"], "min_side"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out
