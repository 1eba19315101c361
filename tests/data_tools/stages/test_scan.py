"""A scan in parts, for several processes, leaves the files of a scan in one piece; parts of a killed one are used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.execution.executors import Parallel
from data_tools.readers.source import SourceSpec
from data_tools.stages import scan as stage
from data_tools.stages.catalog import Catalog, build_catalog
from tests.data_tools.sample_images import encoded, folder_corpus, jpeg, scene

ONE = Parallel(workers=1)
# Kinds, modes, captions and faults differ between the parts, whose tables hold each its own dictionaries.
PICTURES = {
    "0.jpg": (jpeg(0), ["a red dog", "ein Hund"]), "1.png": (encoded(scene(1), "PNG"), ["кошка"]), "2.jpg": (b"<html>", ["no"]),
    "3.jpg": (encoded(scene(3).convert("L")), []), "4.jpg": (jpeg(4)[:-99], ["cut, off"]), "5.jpg": (jpeg(5), ["a_b 12 ?!"]),
}  # fmt: skip


def catalog(work: Path, source: Path, chunk_rows: int = 10_000) -> Path:
    build_catalog(work, [SourceSpec("raw", "folder", str(source))], ONE, chunk_rows=chunk_rows)
    return work


def files(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work / "scan").iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_corpus(tmp_path_factory.mktemp("raw"), PICTURES)


@pytest.mark.parametrize("chunk_rows", [10_000, 4])
def test_parts_leave_the_files_of_one_piece(
    tmp_path: Path, source: Path, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.scan(whole := catalog(tmp_path / "whole", source, chunk_rows), ONE)
    monkeypatch.setattr(stage, "_LEAST_PART", 1)
    numbers: list[tuple[int, int]] = []

    def scan_rows(task: stage._Task) -> int:
        numbers.append((task.first, task.last))
        return original(task)

    original = stage._scan_rows
    monkeypatch.setattr(stage, "_scan_rows", scan_rows)
    monkeypatch.setattr(stage, "run_tasks", lambda function, tasks, *_, **__: [function(task) for task in tasks])
    stage.scan(parted := catalog(tmp_path / "parts", source, chunk_rows), Parallel(workers=2))
    assert len(numbers) == len(PICTURES)
    assert files(parted) == files(whole)


def test_a_killed_scan_continues_with_its_parts(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = catalog(tmp_path, source)
    monkeypatch.setattr(stage, "_LEAST_PART", 2)
    first = stage._Task(work, work / "scan", Catalog(work).chunks[0], 10**6, False, 0, 2)
    (work / "scan").mkdir()
    stage._scan_rows(first)
    before = first.result.stat().st_mtime_ns
    seen: list[int] = []
    original = stage._join
    monkeypatch.setattr(stage, "_join", lambda *task: (seen.append(first.result.stat().st_mtime_ns), original(*task)))
    assert stage.scan(work, Parallel(workers=2), max_pixels=10**6) is not None
    assert seen == [before], "the part was scanned again"
    left = ["00000-00000.captions.parquet", "00000-00000.parquet", "done.json", "settings.json", "sums.json"]
    assert sorted(files(work)) == left


def test_a_retry_uses_no_parts(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = catalog(tmp_path, source)
    stale = work / "scan" / "00000-00000.0-2.parquet"
    stale.parent.mkdir()
    stale.write_bytes(b"of a scan without the files")
    monkeypatch.setattr(stage, "_LEAST_PART", 2)
    assert stage.scan(work, Parallel(workers=2), retry=True) is not None


def test_array_tasks_and_dask_scan_whole_chunks(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_LEAST_PART", 1)
    work = catalog(tmp_path, source)
    task = stage._Task(work, work / "scan", Catalog(work).chunks[0], 10**6, False)
    assert len(stage._parts([task], Parallel(workers=2))) == len(PICTURES)
    for parallel in (ONE, Parallel(workers=2, num_tasks=2), Parallel(address="dask://host:1")):
        assert stage._parts([task], parallel) == []
