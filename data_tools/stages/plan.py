"""Plans the shards, fixing the place of every sample before a byte is written, and writes the table of all decisions.

The order of samples is a pure function of seed and row number (a keyed hash, sorted). The plan is one Arrow file per shard
(`plan_files`), which holds everything that the task writing that shard needs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError
from albef_ds.data.shards.format import BLOCK
from data_tools.config import PlanConfig
from data_tools.content.captions import mix
from data_tools.execution.executors import ONE, Parallel
from data_tools.execution.rounds import num_partitions, open_reduction, parts_folder, run_shared
from data_tools.execution.stage_folder import StageFolder, checked_path, load_stage
from data_tools.files.storage import save_array
from data_tools.readers.source import Record
from data_tools.stages.decisions import KEPT, Decisions
from data_tools.stages.plan_files import plan_name, read_plan, write_plan
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
_REASONS = 5  # named where nothing was kept
_META_BYTES = 512  # typical JSON member, for shards by size


def permutation(rows: I64, seed: int) -> I64:
    """`rows` permuted by `seed`, identically on every machine and library version."""
    keys = mix(mix(rows.astype(np.uint64) + np.uint64(1)) ^ mix(np.array([seed], np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    order: I64 = rows[np.argsort(keys)]  # no two keys are equal: `mix` is a bijection
    return order


def shard_bounds(order: I64, num_bytes: NDArray[np.int64], config: PlanConfig) -> I64:
    """Positions in `order` where shards begin, followed by its length; `num_bytes` covers all rows."""
    if config.samples_per_shard and not config.even:
        return np.append(np.arange(0, len(order), config.samples_per_shard), len(order))
    if config.samples_per_shard:
        shards = -(-len(order) // config.samples_per_shard)
        even: I64 = np.linspace(0, len(order), shards + 1).round().astype(np.int64)
        return even
    sizes = np.cumsum(-(-num_bytes[order] // BLOCK) * BLOCK + _META_BYTES + 2 * BLOCK)
    shards = max(1, round(int(sizes[-1]) / config.shard_bytes))
    inner = np.searchsorted(sizes, sizes[-1] * np.arange(1, shards) / shards)
    bounds: I64 = np.unique(np.concatenate(([0], inner, [len(order)])))
    return bounds


def plan_stage(work: Path, config: PlanConfig, parallel: Parallel = ONE, partitions: int = 0) -> StageFolder:
    """Writes the plan, the decisions and the fingerprints of the kept images to `work/plan`.

    `partitions` are blocks of rows and ranges of shards, for the tasks that `parallel` runs; the result does not depend on it.
    Raises ConfigError if the decontaminate stage is not finished or nothing was kept.
    """
    columns, before = Columns(work), load_stage(work, "decontaminate")
    num_parts = num_partitions(partitions, columns.num_rows, parallel)
    stage = open_reduction(work, "plan", {"decontaminate": before.digest, **asdict(config)}, parallel)
    parts = parts_folder(stage, num_parts)

    def reduce() -> dict[str, Any]:
        summary, first_captions = _prepare(columns, Decisions.load(before.folder), config, parts)
        write_plan(columns, first_captions, parts, parallel, num_parts)
        save_array(stage.folder / "bounds.npy", np.load(parts / "bounds.npy", allow_pickle=False))
        return summary

    run_shared(stage, reduce)
    return stage


def _prepare(columns: Columns, decisions: Decisions, config: PlanConfig, parts: Path) -> tuple[dict[str, Any], list[int]]:
    """Writes the place of each row (-1: none), the owner of each caption and the bounds of the shards to `parts`.

    Returns the stage's summary and the number of the first caption of each chunk. Raises ConfigError if nothing was kept.
    """
    rows = np.flatnonzero(decisions.image == KEPT)
    if not len(rows):
        raise _nothing_kept(columns, decisions)
    names, sources = columns.sources()
    kept = np.bincount(names[rows], minlength=len(sources))
    order = permutation(rows, config.seed) if config.shuffle else rows
    del rows
    bounds = shard_bounds(order, columns.image("num_bytes") if config.shard_bytes else np.zeros(0, np.int64), config)
    save_array(parts / "bounds.npy", bounds)
    place = np.full(columns.num_rows, -1, np.int64)
    place[order] = np.arange(len(order))
    samples = len(order)
    del order
    save_array(parts / "place.npy", place)
    del place
    caption_rows = columns.caption_rows()
    first_captions = columns.first_captions(caption_rows)
    owners = decisions.owners(caption_rows)
    del caption_rows
    save_array(parts / "owners.npy", owners)
    captions = np.bincount(names[owners[(decisions.caption == KEPT) & (owners >= 0)]], minlength=len(sources))
    summary = {"num_samples": samples, "num_shards": len(bounds) - 1, "config": asdict(config)}
    summary |= {"counts": decisions.counts(), "funnel": funnel(columns, decisions)}
    summary |= {"kept": dict(zip(sources, kept.tolist(), strict=True))}
    return summary | {"kept_captions": dict(zip(sources, captions.tolist(), strict=True))}, first_captions


def _nothing_kept(columns: Columns, decisions: Decisions) -> ConfigError:
    counts = {reason: found["pictures"] for reason, found in decisions.counts().items() if found["pictures"]}
    most = ", ".join(f"{reason}: {counts[reason]:,}" for reason in sorted(counts, key=lambda r: -counts[r])[:_REASONS])
    return ConfigError(f"nothing was kept of {columns.num_rows:,} images ({most}): correct the sources or choose a milder preset")


def funnel(columns: Columns, decisions: Decisions) -> dict[str, dict[str, int]]:
    """Number of images dropped, per source and reason, in the order of the reasons."""
    names, sources = columns.sources()
    size = len(decisions.reasons) + 1
    table = np.zeros((len(sources), size), np.int64)
    for number in range(len(sources)):
        table[number] = np.bincount(decisions.image[names == number], minlength=size)
    return {source: dict(zip(decisions.reasons, table[i, 1:].tolist(), strict=True)) for i, source in enumerate(sources)}


@dataclass(frozen=True)
class PlannedSample:
    """One sample of a shard: the location of its image, and all its captions."""

    source: str
    record: Record
    captions: list[str]
    content_hash: int
    """Lower 64 bits of the xxh3_128 of the bytes, as scanned."""


def planned_samples(folder: Path, shard: int) -> list[PlannedSample]:
    """The samples of shard `shard` of the plan in `folder`, in order."""
    if not (folder / plan_name(shard)).exists() and (folder / f"shard-{shard:05d}.jsonl").exists():
        return _samples_of_lines(folder, shard)
    samples: list[PlannedSample] = []
    for raw in read_plan(folder, shard).to_pylist():
        if raw["merged"]:
            samples[-1].captions.extend(raw["captions"])
            continue
        extra = json.loads(raw["extra"]) if raw["extra"] else {}
        record = Record(raw["id"], raw["path"], raw["offset"], raw["size"], [], raw["image_id"], "", extra)
        samples.append(PlannedSample(raw["source"], record, raw["captions"], raw["hash"]))
    return samples


def _samples_of_lines(folder: Path, shard: int) -> list[PlannedSample]:
    """The samples of a plan of an earlier version, which was JSON lines."""
    samples: dict[int, PlannedSample] = {}
    merged: list[tuple[int, int, list[str]]] = []
    with open(checked_path(folder, f"shard-{shard:05d}.jsonl"), "rb") as file:
        for line in file:
            raw = json.loads(line)
            if "path" in raw:
                extra = json.loads(raw["extra"]) if raw["extra"] else {}
                record = Record(raw["id"], raw["path"], raw["offset"], raw["size"], [], raw["image_id"], "", extra)
                samples[raw["place"]] = PlannedSample(raw["source"], record, raw["captions"], raw["hash"])
            else:
                merged.append((raw["place"], raw["row"], raw["captions"]))
    for place, _, captions in sorted(merged):
        samples[place].captions.extend(captions)
    return [samples[place] for place in sorted(samples)]
