"""Dedup, decontamination and plan give the same bytes at any number of partitions, workers and array tasks."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import xxhash

from data_tools.config import DecontaminateConfig, DedupConfig, FilterConfig, PlanConfig
from data_tools.execution import rounds
from data_tools.execution.executors import Parallel
from data_tools.execution.stage_folder import DamagedStageError, StageFolder
from data_tools.stages import caption_parts, decontaminate, plan_files
from data_tools.stages.decontaminate import Known, decontaminate_stage
from data_tools.stages.dedup import dedup_stage
from data_tools.stages.filter import filter_stage
from data_tools.stages.plan import plan_stage, planned_samples
from tests.data_tools.stages.synthetic import synthetic_work

CONFIGS = {
    "all": DedupConfig(max_pictures_per_caption=2, min_variance=25),
    "best": DedupConfig(several_captions="best", jaccard=1, radius=5),
    "drop": DedupConfig(several_captions="drop", jaccard=0.5, max_pictures_per_caption=1),
    "off": DedupConfig(jaccard=0, radius=-1),
}
DECIDED = {
    "all": ("0b51d439fae75a83", "0e41e6a237eafa27"),
    "best": ("ab7123e2ccd3dc7e", "f1d6daa77d96f3c2"),
    "drop": ("bbbe95c26b47de6f", "95adf845d9ef61a6"),
    "off": ("faf4fc9d10437a3e", "c92e906185fa94df"),
}
"""Digests of the decisions and of the planned samples by the implementation before there were partitions."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = synthetic_work(tmp_path_factory.mktemp("partitions") / "work")
    filter_stage(folder, FilterConfig(min_words=3))
    return folder


def reduce(work: Path, config: DedupConfig, parallel: Parallel, partitions: int) -> StageFolder:
    """Runs the three reductions."""
    ids = work / "ids.txt"
    ids.write_text("00005.jpg\n00777\n")
    dedup_stage(work, config, parallel, partitions)
    known = [
        Known("test", work / "test.parquet", DecontaminateConfig()),
        Known("bits", work / "test.parquet", DecontaminateConfig(-1)),
    ]
    decontaminate_stage(work, known, {"listed": str(ids)}, parallel, partitions)
    return plan_stage(work, PlanConfig(samples_per_shard=50), parallel, partitions)


def contents(work: Path) -> dict[str, bytes]:
    """All files of the three stages; no parts are left."""
    files = {stage: sorted((work / stage).iterdir()) for stage in ("dedup", "decontaminate", "plan")}
    return {f"{stage}/{path.name}": path.read_bytes() for stage, paths in files.items() for path in paths}


def digests(work: Path, plan: StageFolder) -> tuple[str, str]:
    """Digests of the decisions and of the samples."""
    names = ("picture.npy", "kept.npy", "detail.npy", "caption.npy", "reasons.json")
    decided = b"".join((work / "decontaminate" / name).read_bytes() for name in names)
    samples = [planned_samples(plan.folder, number) for number in range(plan.summary["num_shards"])]
    return xxhash.xxh3_64_hexdigest(decided), xxhash.xxh3_64_hexdigest(repr(samples).encode())


def forget(work: Path) -> None:
    for stage in ("dedup", "decontaminate", "plan"):
        shutil.rmtree(work / stage, ignore_errors=True)


@pytest.mark.parametrize(("name", "numbers"), [("all", (1, 2, 7)), ("best", (2,)), ("drop", (3, 17)), ("off", (2,))])
def test_any_number_of_partitions_gives_the_bytes_of_one(
    work: Path, name: str, numbers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(work)
    plan = reduce(work, CONFIGS[name], Parallel(1), 1)
    expected = contents(work)
    assert digests(work, plan) == DECIDED[name]
    # Small enough that each part takes several turns.
    monkeypatch.setattr(caption_parts, "_PAIRS", 100)
    monkeypatch.setattr(decontaminate, "_ROWS", 90)
    monkeypatch.setattr(plan_files, "_RANGE", 120)
    monkeypatch.setattr(plan_files, "_HELD", 20_000)
    for partitions in numbers:
        forget(work)
        reduce(work, CONFIGS[name], Parallel(1), partitions)
        assert contents(work) == expected, partitions


def test_workers_and_array_tasks_give_the_bytes_of_one_process(work: Path) -> None:
    forget(work)
    reduce(work, CONFIGS["all"], Parallel(1), 1)
    expected = contents(work)
    forget(work)
    reduce(work, CONFIGS["all"], Parallel(2), 2)
    assert contents(work) == expected
    forget(work)
    with ThreadPoolExecutor(3) as pool:
        shares = [Parallel(1, "", index, 3) for index in range(3)]
        stages = list(pool.map(lambda share: reduce(work, CONFIGS["all"], share, 0), shares))
    assert all(stage.done for stage in stages) and contents(work) == expected


def test_array_tasks_with_one_missing_or_another_number_of_tasks_give_the_bytes_of_one_process(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PATIENCE", 0.05)
    monkeypatch.setattr(rounds, "_APART", 0.05)
    monkeypatch.setattr(rounds, "_POLL", 0.01)
    forget(work)
    reduce(work, CONFIGS["drop"], Parallel(1), 1)
    expected = contents(work)
    for shares in ((Parallel(1, "", 2, 4),), (Parallel(1, "", 0, 2), Parallel(1, "", 1, 3))):
        forget(work)
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(lambda share: reduce(work, CONFIGS["drop"], share, 0).done, shares))
        assert contents(work) == expected


def test_a_plan_of_an_earlier_version_is_read_as_before(work: Path, tmp_path: Path) -> None:
    forget(work)
    stage = reduce(work, CONFIGS["all"], Parallel(1), 1)
    old = tmp_path / "plan"
    shutil.copytree(work / "plan", old)
    merged = 0
    for number in range(stage.summary["num_shards"]):
        lines = []
        for raw in sorted(plan_files.read_plan(work / "plan", number).to_pylist(), key=lambda raw: int(raw["row"])):
            names = ("place", "row", "captions") if raw["merged"] else [name for name in raw if name != "merged"]
            merged += raw["merged"]
            lines.append(json.dumps({name: raw[name] for name in names}, ensure_ascii=False) + "\n")
        (old / f"shard-{number:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
        (old / plan_files.plan_name(number)).unlink()
    before = StageFolder(old, stage.digest)
    before.finish(stage.summary)
    assert merged > 50 and digests(work, stage) == digests(work, before)
    assert dedup_stage(work, CONFIGS["all"], Parallel(1), 5).done, "other partitions do not make a finished stage again"
    with open(old / "shard-00000.jsonl", "ab") as file:
        file.write(b"{}\n")
    with pytest.raises(DamagedStageError, match="its checksum differs"):
        planned_samples(old, 0)


def test_a_killed_reduction_goes_on_with_its_finished_tasks(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(work)
    reduce(work, CONFIGS["all"], Parallel(1), 1)
    expected = contents(work)
    real, calls = rounds.save_part, []

    class Killed(BaseException):
        pass

    def die_later(path: Path, **arrays: Any) -> None:
        calls.append(path.name)
        if len(calls) in stops:
            raise Killed
        real(path, **arrays)

    for module in ("image_parts", "caption_parts", "decontaminate", "plan_files"):
        monkeypatch.setattr(f"data_tools.stages.{module}.save_part", die_later)
    forget(work)
    stops = set(range(3, 200, 7))
    deaths = 0
    for _ in range(40):
        try:
            # At any number of partitions: what was finished with another one is removed at the end.
            reduce(work, CONFIGS["all"], Parallel(1), 2 if deaths < 30 and deaths % 9 else 3)
            break
        except Killed:
            deaths += 1
    assert deaths > 3 and contents(work) == expected
    assert len(planned_samples(work / "plan", 0)) > 40
