"""Plans the shards, fixing the place of every sample before a byte is written, and writes the table of all decisions.

The order of samples is a pure function of seed and row number (a keyed hash, sorted). The plan is one file of JSON lines per
shard, which holds everything that the task writing that shard needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError
from albef_ds.data.shards.format import BLOCK
from data_tools.config import PlanConfig
from data_tools.content.captions import mix
from data_tools.execution.stage_folder import StageFolder, checked_path, load_stage, open_stage, read_columns
from data_tools.files.storage import save_array, save_atomically, writing_to
from data_tools.readers.source import Record
from data_tools.stages.decisions import KEPT, Decisions
from data_tools.stages.hash_files import FINGERPRINTS_NAME, save_hashes
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
DECISIONS_NAME = "decisions.parquet"
_REASONS = 5  # named where nothing was kept
_META_BYTES = 512  # typical JSON member, for shards by size
_SPILL_BYTES = 64 << 20


def permutation(rows: I64, seed: int) -> I64:
    """`rows` permuted by `seed`, identically on every machine and library version."""
    keys = mix(mix(rows.astype(np.uint64) + np.uint64(1)) ^ mix(np.array([seed], np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    order: I64 = rows[np.lexsort((rows, keys))]
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


def plan_stage(work: Path, config: PlanConfig) -> StageFolder:
    """Writes the plan, the decisions and the fingerprints of the kept images to `work/plan`.

    Raises ConfigError if the decontaminate stage is not finished or nothing was kept.
    """
    columns, before = Columns(work), load_stage(work, "decontaminate")
    stage = open_stage(work, "plan", {"decontaminate": before.digest, **asdict(config)}, is_map=False)
    if stage.done:
        return stage
    decisions = Decisions.load(before.folder)
    rows = np.flatnonzero(decisions.image == KEPT)
    if not len(rows):
        counts = {reason: found["pictures"] for reason, found in decisions.counts().items() if found["pictures"]}
        most = ", ".join(f"{reason}: {counts[reason]:,}" for reason in sorted(counts, key=lambda r: -counts[r])[:_REASONS])
        raise ConfigError(
            f"nothing was kept of {columns.num_rows:,} images ({most}): correct the sources or choose a milder preset"
        )
    order = permutation(rows, config.seed) if config.shuffle else rows
    bounds = shard_bounds(order, columns.image("num_bytes"), config)
    place = np.full(columns.num_rows, -1, np.int64)
    place[order] = np.arange(len(order))
    owners = decisions.owners(columns.caption_rows())
    with writing_to(stage.folder):
        _spill(columns, decisions, owners, place, bounds, stage.folder)
    save_decisions(columns, decisions, stage.folder / DECISIONS_NAME)
    save_hashes(stage.folder / FINGERPRINTS_NAME, columns, decisions.image == KEPT)
    save_array(stage.folder / "bounds.npy", bounds)
    names, sources = columns.sources()
    kept = np.bincount(names[rows], minlength=len(sources))
    captions = np.bincount(names[owners[(decisions.caption == KEPT) & (owners >= 0)]], minlength=len(sources))
    summary = {"num_samples": len(order), "num_shards": len(bounds) - 1, "config": asdict(config), "counts": decisions.counts()}
    summary |= {"funnel": funnel(columns, decisions), "kept": dict(zip(sources, kept.tolist(), strict=True))}
    stage.finish(summary | {"kept_captions": dict(zip(sources, captions.tolist(), strict=True))})
    return stage


def funnel(columns: Columns, decisions: Decisions) -> dict[str, dict[str, int]]:
    """Number of images dropped, per source and reason, in the order of the reasons."""
    names, sources = columns.sources()
    table = np.zeros((len(sources), len(decisions.reasons) + 1), np.int64)
    np.add.at(table, (names, decisions.image), 1)
    return {source: dict(zip(decisions.reasons, table[i, 1:].tolist(), strict=True)) for i, source in enumerate(sources)}


def bucket_name(shard: int) -> str:
    """Name of the plan's file for shard `shard`, counted from the first of this plan."""
    return f"shard-{shard:05d}.jsonl"


def _spill(columns: Columns, decisions: Decisions, owners: I64, place: I64, bounds: I64, folder: Path) -> None:
    buffers: dict[int, list[bytes]] = {}
    held = 0

    def flush() -> None:
        for shard, lines in buffers.items():
            with open(folder / bucket_name(shard), "ab") as file:
                file.write(b"".join(lines))
        buffers.clear()

    for lines, shards in _lines(columns, decisions, owners, place, bounds):
        for line, shard in zip(lines, shards, strict=True):
            buffers.setdefault(shard, []).append(line)
            held += len(line)
        if held >= _SPILL_BYTES:
            flush()
            held = 0
    flush()


def _lines(
    columns: Columns, decisions: Decisions, owners: I64, place: I64, bounds: I64
) -> Iterator[tuple[list[bytes], list[int]]]:
    """Yields per chunk: a line for each kept image and each dropped one whose captions remain, and the shard of each line."""
    first = 0
    for chunk in columns.catalog.chunks:
        hashes = read_columns(columns.stage.folder, f"{chunk.name}.parquet", ["bytes_lo"])["bytes_lo"]
        table = columns.catalog.read(chunk)
        texts = table["captions"].combine_chunks()
        counts = pc.list_value_length(texts).to_numpy()
        starts = first + np.concatenate(([0], np.cumsum(counts)))
        rows = np.arange(chunk.first_row, chunk.first_row + chunk.num_rows)
        kept = decisions.image[rows] == KEPT
        via = np.full(len(rows), -1, np.int64)
        via[counts > 0] = owners[starts[:-1][counts > 0]]
        target = np.where(kept, rows, via)
        alive = decisions.caption[first : starts[-1]] == KEPT
        any_alive = np.diff(np.concatenate(([0], np.cumsum(alive)))[starts - first]) > 0
        chosen = np.flatnonzero((target >= 0) & (kept | any_alive))
        whole = alive.all()
        first = int(starts[-1])
        places = place[target[chosen]]
        listed = {name: table[name].take(pa.array(chosen)).to_pylist() for name in _LISTED}
        columns_of = zip(
            rows[chosen].tolist(),
            places.tolist(),
            kept[chosen].tolist(),
            (texts if whole else _only(texts, alive)).take(pa.array(chosen)).to_pylist(),
            hashes.take(pa.array(chosen)).to_pylist(),
            zip(*listed.values(), strict=True),
            strict=True,
        )
        lines = []
        for row, at, own, captions, content, values in columns_of:
            entry: dict[str, Any] = {"place": at, "row": row, "captions": captions}
            if own:
                entry |= zip(_LISTED, values, strict=True)
                entry |= {"source": chunk.source, "hash": content}
            lines.append(_ENCODER.encode(entry).encode("utf-8") + b"\n")
        yield lines, (np.searchsorted(bounds, places, side="right") - 1).tolist()


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
_LISTED = ("id", "path", "offset", "size", "image_id", "extra")


def _only(texts: pa.ListArray, alive: NDArray[np.bool_]) -> pa.ListArray:
    """`texts` without the captions that are not `alive`."""
    before = np.concatenate(([0], np.cumsum(alive))).astype(np.int32)
    offsets = texts.offsets.to_numpy() - texts.offsets[0].as_py()
    return pa.ListArray.from_arrays(pa.array(before[offsets]), texts.flatten().filter(pa.array(alive)))


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
    samples: dict[int, PlannedSample] = {}
    merged: list[tuple[int, int, list[str]]] = []
    with open(checked_path(folder, bucket_name(shard)), "rb") as file:
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


def save_decisions(columns: Columns, decisions: Decisions, path: Path) -> None:
    """Writes one row per dropped image or caption: row, source, id, caption (its number on the image; -1: the image itself),
    reason, kept row (-1: none) and its source and id, distance in bits (-1: not compared by look)."""
    text, reason = pa.string(), pa.dictionary(pa.int16(), pa.string())
    types = [pa.int64(), text, text, pa.int32(), reason, pa.int64(), pa.int16()]
    schema = pa.schema(list(zip(("row", "source", "id", "caption", "reason", "kept_row", "distance"), types, strict=True)))
    reasons = pa.array(["", *decisions.reasons], pa.string())
    caption_rows = columns.caption_rows()

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for chunk in columns.catalog.chunks:
                last = chunk.first_row + chunk.num_rows
                low, high = np.searchsorted(caption_rows, [chunk.first_row, last])
                images = np.flatnonzero(decisions.image[chunk.first_row : last]) + chunk.first_row
                captions = np.flatnonzero(decisions.caption[low:high]) + low
                rows = np.concatenate((images, caption_rows[captions]))
                number = captions - np.searchsorted(caption_rows, caption_rows[captions])
                nothing = np.full(len(captions), -1, np.int64)
                codes = np.concatenate((decisions.image[images], decisions.caption[captions])).astype(np.int16)
                table = {
                    "row": rows,
                    "source": pa.array([chunk.source] * len(rows), pa.string()),
                    "id": columns.catalog.read(chunk, ["id"])["id"].take(pa.array(rows - chunk.first_row)),
                    "caption": np.concatenate((np.full(len(images), -1), number)).astype(np.int32),
                    "reason": pa.DictionaryArray.from_arrays(pa.array(codes), reasons),
                    "kept_row": np.concatenate((decisions.kept[images], nothing)),
                    "distance": np.concatenate((decisions.detail[images], nothing)).astype(np.int16),
                }
                writer.write_table(pa.table(table, schema=schema))

    save_atomically(path, write)
