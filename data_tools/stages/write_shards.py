"""The shard stage: writes the planned shards, one task each, and then the manifest.

A task writes `shard/NNNNN.json` in the working folder when its tar is complete. The plan fixes each shard's samples and order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import xxhash

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest, ShardEntry
from data_tools.config import ResizeConfig
from data_tools.content import images
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.execution.stage_folder import (
    DamagedStageError,
    StageFolder,
    checked_path,
    load_stage,
    open_stage,
    read_array,
    read_object,
)
from data_tools.files.destination import FolderDestination, Place, StoreDestination, destination_of
from data_tools.files.shard_writer import Sample
from data_tools.files.storage import ByteReader, save_json, writing_to
from data_tools.stages.catalog import Catalog
from data_tools.stages.filter import BROKEN
from data_tools.stages.hash_files import FINGERPRINTS_NAME, read_hashes, write_hashes
from data_tools.stages.plan import PlannedSample, planned_samples

UPLOADS_NAME = "uploads"
"""Folder in the working folder for shards on their way to an object store."""

PAPER_COUNTS = {
    "coco": (113_000, 567_000),
    "visual-genome": (100_000, 769_000),
    "vg": (100_000, 769_000),
    "sbu": (860_000, 860_000),
    "cc3m": (2_950_000, 2_950_000),
    "cc12m": (10_060_000, 10_060_000),
}
"""Images and captions per source that the paper trained on (arXiv 2107.07651, appendix)."""


@dataclass(frozen=True)
class _Task:
    plan: Path
    destination: FolderDestination | StoreDestination
    number: int
    first_shard: int
    first_sample: int
    resize: ResizeConfig
    marker: Path


def shard_stage(work: Path, place: Place, parallel: Parallel, resize: ResizeConfig, *, restart: bool = False) -> Manifest | None:
    """Writes the shards of `work/plan` to `place`, a folder or a URL; None while other array tasks have not done their share.

    A plan that starts above shard 0 adds to the corpus in `place`. Raises UserError if the plan is not finished, `place` holds
    something else, a source has changed, the disk is full, or a store fails.
    """
    plan = load_stage(work, "plan")
    summary = plan.summary
    first_shard, first_sample = summary["config"]["first_shard"], summary["config"]["first_sample"]
    destination = destination_of(place, work / UPLOADS_NAME)
    settings = {"plan": plan.digest, "folder": destination.identity, **asdict(resize)}
    stage = open_stage(work, "shard", settings, is_map=True, restart=restart)
    before = destination.manifest()
    if stage.done and before is not None:
        return before
    bounds = read_array(plan.folder, "bounds.npy")
    tasks = [
        _Task(
            plan.folder, destination, number, first_shard, first_sample + int(first), resize, stage.folder / f"{number:05d}.json"
        )
        for number, first in enumerate(bounds[:-1])
    ]
    present = destination.sizes()
    if (written := _written_before(before, tasks, present)) is not None:
        _close(destination, stage, written)
        return written
    if first_shard:
        if before is None or (len(before.shards), before.num_samples) != (first_shard, first_sample):
            raise DataError(f"{place} has changed since this append was planned: run `albef-data append` with a new work folder")
    else:
        destination.open()
        before = None
    sizes = np.diff(bounds)
    done = partial(_is_done, present=present)
    run_tasks(_write, tasks, parallel, "shard", size_of=lambda task: int(sizes[task.number]), unit="image", is_done=done)
    present = destination.sizes()
    if not all(_is_done(task, present) for task in tasks):
        return None
    entries = tuple(_entry(task) for task in tasks)
    with writing_to(work):
        return _finish(work, destination, stage, plan, entries, before, resize)


def _written_before(manifest: Manifest | None, tasks: list[_Task], present: dict[str, int]) -> Manifest | None:
    """The manifest over all of `tasks` if a run was killed after writing it and before finishing the stage, else None."""
    if manifest is None or not all(_is_done(task, present) for task in tasks):
        return None
    entries = tuple(_entry(task) for task in tasks)
    return manifest if manifest.shards[tasks[0].first_shard :] == entries else None


def _close(destination: FolderDestination | StoreDestination, stage: StageFolder, manifest: Manifest) -> None:
    destination.unmark()
    stage.finish({"num_samples": manifest.num_samples, "num_shards": len(manifest.shards)})


def _is_done(task: _Task, present: dict[str, int]) -> bool:
    """True if the task's shard is among the files `present` at the destination, by size."""
    if not task.marker.exists():
        return False
    try:
        entry = _entry(task)
    except DataError:
        return False  # the shard is written again, with the same bytes
    return present.get(entry.name) == entry.num_bytes


def _entry(task: _Task) -> ShardEntry:
    raw = read_object(task.marker.parent, task.marker.name)
    try:
        return ShardEntry.checked(raw)
    except ValueError as error:
        raise DamagedStageError(task.marker, str(error)) from None


def _write(task: _Task) -> int:
    samples = planned_samples(task.plan, task.number)
    number = task.first_shard + task.number
    entry = task.destination.write_shard(number, task.first_sample, _content(samples, task.resize))
    save_json(task.marker, asdict(entry))
    return entry.num_samples


def _content(samples: list[PlannedSample], resize: ResizeConfig) -> Iterator[Sample]:
    reader = ByteReader()
    for sample in samples:
        record = sample.record
        try:
            content = reader.read(record.path, record.offset, record.size)
        except OSError as error:
            raise DataError(f"{record.path} has gone since it was scanned ({error}): bring it back and run again") from None
        if xxhash.xxh3_128_intdigest(content) & (1 << 64) - 1 != sample.content_hash:
            raise DataError(f"{record.path} has changed since it was scanned: run again with restart")
        image, extension = images.for_shard(content, resize.max_side, resize.quality)
        yield image, extension, _meta(sample)
    reader.close()


def _meta(sample: PlannedSample) -> dict[str, Any]:
    extra, record = dict(sample.record.extra), sample.record
    fixed: dict[str, Any] = {"captions": list(dict.fromkeys(sample.captions))}
    image_id = record.image_id or record.id
    if "source" in extra:  # from our shards or a table with this column: the identity it has there stays
        return extra | fixed | {"image_id": image_id}
    return extra | fixed | {"source": sample.source, "image_id": f"{sample.source}/{image_id}", "id": record.id}


def source_table(work: Path) -> dict[str, dict[str, Any]]:
    """Counts per source: images listed, present, broken and kept, captions kept, and the paper's counts if known."""
    catalog, plan = Catalog(work), load_stage(work, "plan").summary
    status = load_stage(work, "scan").summary["status"]
    table = {}
    for name, source in catalog.sources.items():
        broken = sum(count for reason, count in status[name].items() if reason in BROKEN)
        missing = sum(count for reason, count in status[name].items() if reason and reason not in BROKEN)
        paper = PAPER_COUNTS.get(name.lower().replace("_", "-"))
        table[name] = {
            "kind": source["kind"],
            "listed": source["listed"],
            "present": source["listed"] - missing,
            "broken": broken,
            "kept": plan["kept"][name],
            "kept_captions": plan["kept_captions"][name],
            "paper_pictures": paper[0] if paper else None,
            "paper_captions": paper[1] if paper else None,
            "problems": source["problems"],
        }
    return table


def _finish(
    work: Path,
    destination: FolderDestination | StoreDestination,
    stage: StageFolder,
    plan: StageFolder,
    entries: tuple[ShardEntry, ...],
    before: Manifest | None,
    resize: ResizeConfig,
) -> Manifest:
    summary = plan.summary
    this = {
        "seed": summary["config"]["seed"],
        "sources": source_table(work),
        "dropped": {reason: [count["pictures"], count["captions"]] for reason, count in summary["counts"].items()},
        "evaluation_sets": {
            name: {"pictures": report["pictures"], "found": report["ways"]}
            for name, report in load_stage(work, "decontaminate").summary["sets"].items()
        },
        "resize": asdict(resize) | ({"pillow": PIL.__version__} if resize.max_side else {}),
    }
    fingerprints, beside = checked_path(plan.folder, FINGERPRINTS_NAME), dict[str, Path]()
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        if before is None:
            info: dict[str, Any] = {"tool": "albef-data", **this}
            beside = {FINGERPRINTS_NAME: fingerprints}
        else:
            info = before.info | {"appended": [*before.info.get("appended", []), this]}
            path = Path(temporary) / FINGERPRINTS_NAME
            path.write_bytes(destination.read(FINGERPRINTS_NAME))
            # A rerun after a kill just before the manifest must not add the same rows again.
            if len(old := read_hashes(path)) == before.num_samples:
                write_hashes(path, [old, read_hashes(fingerprints)])
                beside = {FINGERPRINTS_NAME: path}
        manifest = destination.finish((*(before.shards if before else ()), *entries), info, beside)
    _close(destination, stage, manifest)
    return manifest
