"""The files of the plan: one Arrow file per shard with its samples in order, the table of all decisions, and the fingerprints.

Rows are sorted by shard from disk: tasks divide blocks of the catalog by ranges of shards, then other tasks sort each range.
Memory is bounded by the size of a range, about 100,000 samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef_ds.common.atomic_files import atomic_file
from data_tools.execution.executors import Parallel
from data_tools.execution.rounds import load_part, mapped, run_round, save_part
from data_tools.execution.stage_folder import DamagedStageError, checked_path, load_stage, read_columns
from data_tools.files.storage import save_array, save_atomically, writing_to
from data_tools.matching.distinct import starts_of_runs
from data_tools.stages.catalog import SCHEMA as CATALOG_SCHEMA
from data_tools.stages.decisions import CAPTION_FILE, IMAGE_FILE, KEPT, Decisions
from data_tools.stages.hash_files import FINGERPRINTS_NAME, save_hashes
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
DECISIONS_NAME = "decisions.parquet"
_LISTED = ("id", "path", "offset", "size", "image_id", "extra")
SCHEMA = pa.schema(
    [
        *(
            ("place", pa.int64()),
            ("row", pa.int64()),
            ("merged", pa.int8()),
            ("captions", pa.list_(pa.string())),
            ("hash", pa.uint64()),
        ),
        *(("source", pa.string()), *((name, CATALOG_SCHEMA.field(name).type) for name in _LISTED)),
    ]
)
"""A row for each sample, and after it one for each dropped duplicate whose captions it gets, with `merged` 1 and only captions.

Nothing is null: what a file holds in the place of a null would depend on how its rows were divided before.
"""
_RANGE = 100_000
"""Samples that are sorted at once."""
_HELD = 64 << 20
"""Bytes that a block holds before it writes them."""
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def plan_name(shard: int) -> str:
    """Name of the plan's file for shard `shard`, counted from the first of this plan."""
    return f"shard-{shard:05d}.arrow"


def read_plan(folder: Path, shard: int) -> pa.Table:
    """The rows of SCHEMA of one shard. Raises DamagedStageError."""
    path = checked_path(folder, plan_name(shard))
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            return reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise DamagedStageError(path, str(error).splitlines()[0][:150]) from None


@dataclass(frozen=True)
class PlanTask:
    """One task of the plan: a table, a block of `chunks`, or a range of shards."""

    work: Path
    parts: Path
    kind: str
    number: int = 0
    chunks: range = range(0)
    first_caption: int = 0
    shards: range = range(0)
    num_blocks: int = 0

    @property
    def output(self) -> Path:
        """The file that marks the task as done."""
        return self.parts / f"{self.kind}-{self.number:05d}.npz"

    @property
    def rows(self) -> Path:
        """The file of a block's rows."""
        return self.parts / f"rows-{self.number:05d}.arrow"


def write_plan(columns: Columns, first_captions: list[int], parts: Path, parallel: Parallel, num_parts: int) -> None:
    """Writes all files beside the folder `parts`, which holds the places, the owners and the bounds.

    `first_captions` has the number of the first caption of each chunk.
    """
    work, bounds = columns.catalog.stage.folder.parent, mapped(parts / "bounds.npy")
    samples = max(1, min(_RANGE, -(-int(bounds[-1]) // num_parts)))
    edges = np.unique([*np.searchsorted(bounds[:-1], np.arange(0, int(bounds[-1]), samples)), len(bounds) - 1]).tolist()
    tasks = [PlanTask(work, parts, kind) for kind in ("decisions", "fingerprints")]
    for number, chunks in enumerate(columns.blocks(num_parts)):
        tasks.append(PlanTask(work, parts, "block", number, chunks, first_captions[chunks.start]))
    if not (parts / "edges.npy").exists():
        save_array(parts / "edges.npy", np.array(edges))
    blocks = len(tasks) - 2
    run_round(write_part, tasks, parallel, "plan, rows")
    ranges = [range(low, high) for low, high in pairwise(edges)]
    sorts = [PlanTask(work, parts, "shards", number, shards=shards, num_blocks=blocks) for number, shards in enumerate(ranges)]
    run_round(write_shard_plans, sorts, parallel, "plan, shards")


def write_part(task: PlanTask) -> None:
    """Writes one of the tables, or divides a block of the catalog by ranges of shards."""
    columns, folder = Columns(task.work), task.parts.parent
    if task.kind == "block":
        save_part(task.output, ranges=np.array(_divide(columns, task), np.int64))
        return
    decisions = Decisions.load(load_stage(task.work, "decontaminate").folder)
    if task.kind == "decisions":
        save_decisions(columns, decisions, columns.caption_rows(), folder / DECISIONS_NAME)
    else:
        save_hashes(folder / FINGERPRINTS_NAME, columns, decisions.image == KEPT)
    save_part(task.output)


def _divide(columns: Columns, task: PlanTask) -> list[int]:
    """Writes the rows of a block, a record batch for each range of shards again and again; returns the range of each batch."""
    edges, bounds = mapped(task.parts / "edges.npy"), mapped(task.parts / "bounds.npy")
    limits = bounds[edges[1:-1]]
    ranges: list[int] = []
    held: list[pa.Table] = []
    size = 0

    def flush(writer: Any) -> None:
        nonlocal size
        if held:
            table = pa.concat_tables(held).combine_chunks()
            held.clear()
            size = 0
            number = np.searchsorted(limits, table["place"].to_numpy(), side="right")
            order = np.argsort(number, kind="stable")
            table, number = table.take(pa.array(order)).combine_chunks(), number[order]
            starts = np.flatnonzero(starts_of_runs(number))
            for low, high in zip(starts, [*starts[1:], len(number)], strict=True):
                writer.write_table(table.slice(low, high - low))
                ranges.append(int(number[low]))

    def write(file: Any) -> None:
        nonlocal size
        with pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as writer:
            for table in _rows(columns, task):
                if len(table):
                    held.append(table)
                    size += table.nbytes
                if size >= _HELD:
                    flush(writer)
            flush(writer)

    save_atomically(task.rows, write)
    return ranges


def _rows(columns: Columns, task: PlanTask) -> Iterator[pa.Table]:
    """Yields per chunk a row for each kept image and each dropped one whose captions remain."""
    decided = load_stage(task.work, "decontaminate").folder
    image, caption = mapped(checked_path(decided, f"{IMAGE_FILE}.npy")), mapped(checked_path(decided, f"{CAPTION_FILE}.npy"))
    place, owners = mapped(task.parts / "place.npy"), mapped(task.parts / "owners.npy")
    first = task.first_caption
    for chunk in columns.catalog.chunks[task.chunks.start : task.chunks.stop]:
        hashes = read_columns(columns.stage.folder, f"{chunk.name}.parquet", ["bytes_lo"])["bytes_lo"]
        table = columns.catalog.read(chunk)
        texts = table["captions"].combine_chunks()
        counts = pc.list_value_length(texts).to_numpy()
        starts = first + np.concatenate(([0], np.cumsum(counts)))
        rows = np.arange(chunk.first_row, chunk.first_row + chunk.num_rows)
        kept = np.asarray(image[chunk.first_row : chunk.first_row + chunk.num_rows]) == KEPT
        owner = np.asarray(owners[first : starts[-1]])
        via = np.full(len(rows), -1, np.int64)
        via[counts > 0] = owner[starts[:-1][counts > 0] - first]
        target = np.where(kept, rows, via)
        alive = np.asarray(caption[first : starts[-1]]) == KEPT
        any_alive = np.diff(np.concatenate(([0], np.cumsum(alive)))[starts - first]) > 0
        chosen = np.flatnonzero((target >= 0) & (kept | any_alive))
        whole = alive.all()
        first = int(starts[-1])
        wanted = pa.array(chosen)
        own = pa.array(kept[chosen])
        found: dict[str, Any] = {"place": place[target[chosen]], "row": rows[chosen], "merged": (~kept[chosen]).astype(np.int8)}
        found["captions"] = (texts if whole else _only(texts, alive)).take(wanted)
        values = {"hash": hashes, "source": pa.repeat(chunk.source, len(rows)), **{name: table[name] for name in _LISTED}}
        for name, column in values.items():
            taken = column.take(wanted)
            nothing = pa.scalar("" if pa.types.is_string(taken.type) else 0, taken.type)
            found[name] = taken if kept[chosen].all() else pc.if_else(own, taken, nothing)
        yield pa.table(found, schema=SCHEMA)


def _only(texts: pa.ListArray, alive: NDArray[np.bool_]) -> pa.ListArray:
    """`texts` without the captions that are not `alive`."""
    before = np.concatenate(([0], np.cumsum(alive))).astype(np.int32)
    offsets = texts.offsets.to_numpy() - texts.offsets[0].as_py()
    return pa.ListArray.from_arrays(pa.array(before[offsets]), texts.flatten().filter(pa.array(alive)))


def write_shard_plans(task: PlanTask) -> None:
    """Sorts the rows of a range of shards, and writes the file of each."""
    folder, bounds = task.parts.parent, mapped(task.parts / "bounds.npy")
    found = []
    for number in range(task.num_blocks):
        block = replace(task, kind="block", number=number)
        batches = np.flatnonzero(load_part(block.output)["ranges"] == task.number)
        if len(batches):
            with pa.memory_map(str(block.rows)) as file, pa.ipc.open_file(file) as reader:
                found += [pa.Table.from_batches([reader.get_batch(batch)]) for batch in batches]
    table = pa.concat_tables([SCHEMA.empty_table(), *found]).combine_chunks()
    found.clear()
    order = np.lexsort(tuple(table[name].to_numpy() for name in ("row", "merged", "place")))
    limits = np.searchsorted(table["place"].to_numpy()[order], bounds[task.shards.start : task.shards.stop + 1])
    for shard, low, high in zip(task.shards, limits, limits[1:], strict=False):
        with (
            writing_to(folder),
            atomic_file(folder / plan_name(shard)) as file,
            pa.ipc.new_file(file, SCHEMA, options=_OPTIONS) as out,
        ):
            out.write_table(table.take(pa.array(order[low:high])))  # of a slice, the file would hold bytes of its neighbours
    save_part(task.output)


def save_decisions(columns: Columns, decisions: Decisions, caption_rows: I64, path: Path) -> None:
    """Writes one row per dropped image or caption: row, source, id, caption (its number on the image; -1: the image itself),
    reason, kept row (-1: none) and its source and id, distance in bits (-1: not compared by look)."""
    text, reason = pa.string(), pa.dictionary(pa.int16(), pa.string())
    types = [pa.int64(), text, text, pa.int32(), reason, pa.int64(), pa.int16()]
    schema = pa.schema(list(zip(("row", "source", "id", "caption", "reason", "kept_row", "distance"), types, strict=True)))
    reasons = pa.array(["", *decisions.reasons], pa.string())

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
