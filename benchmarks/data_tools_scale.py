"""Measures dedup, decontamination and shard plan on a synthetic corpus of hashes and captions, without images.

    OMP_NUM_THREADS=1 python -m benchmarks.data_tools_scale --rows 14000000 --work FOLDER --out benchmarks/data_tools_scale

The corpus has 3% equal files, 3% near-duplicate images, 3% flat images and 10% repeated captions. Catalog and scan are written
directly (not measured); the real later stages each run in a separate process, whose time and peak memory are recorded.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.data_tools_peers import planted_hashes
from benchmarks.record import record_parser, write_record
from data_tools.config import DecontaminateConfig, DedupConfig, FilterConfig, PlanConfig
from data_tools.content import captions as text
from data_tools.content.images import COLOUR_BYTES
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.execution.stage_folder import StageFolder
from data_tools.files.storage import save_json, save_table
from data_tools.matching import hamming
from data_tools.matching.caption_sets import sets_of, words_of
from data_tools.matching.distinct import distinct
from data_tools.stages.catalog import SCHEMA as CATALOG_SCHEMA
from data_tools.stages.decontaminate import Known, decontaminate_stage
from data_tools.stages.dedup import dedup_stage
from data_tools.stages.filter import filter_stage
from data_tools.stages.hash_files import SCHEMA as HASHES_SCHEMA
from data_tools.stages.plan import plan_stage

CHUNK = 20_000
EVALUATION = 40_000


@dataclass(frozen=True)
class SyntheticChunk:
    """One chunk of the synthetic corpus."""

    work: Path
    number: int
    first: int
    rows: int


def base_hash(rows: Any) -> Any:
    """A hash that depends only on the row number."""
    values = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(29)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(32))


def make_chunk(chunk: SyntheticChunk) -> int:
    """Writes the catalog and scan files of one chunk."""
    rng = np.random.default_rng(chunk.number)
    rows = np.arange(chunk.first, chunk.first + chunk.rows)
    kind = rng.random(chunk.rows)
    earlier = rng.integers(0, np.maximum(rows, 1))
    same, near, flat = kind < 0.03, (kind >= 0.03) & (kind < 0.06), (kind >= 0.06) & (kind < 0.09)
    origin = np.where(same | near, earlier, rows)
    content, phash = base_hash(np.where(same, origin, rows)), base_hash(origin + 10**9)
    phash ^= np.where(near, np.uint64(1) << rng.integers(0, 64, chunk.rows, dtype=np.uint64), np.uint64(0))
    phash = np.where(flat, np.uint64(0xAAAA000000000000) ^ rng.integers(0, 4096, chunk.rows, dtype=np.uint64), phash)
    colours = np.repeat((phash >> np.uint64(56)).astype(np.uint8)[:, None] & 0xF0, COLOUR_BYTES, axis=1)
    colours[near] = ((base_hash(origin[near] + 10**9) >> np.uint64(56)).astype(np.uint8) & 0xF0)[:, None]
    words = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "ss", "lt", "mp", "x", "y", "d")])
    source = np.where(rng.random(chunk.rows) < 0.1, earlier, rows)
    picks = base_hash(source[:, None] * 16 + np.arange(12)[None]) % np.uint64(len(words))
    lengths = (6 + base_hash(source + 7) % np.uint64(7)).astype(np.int64)
    texts = make_texts(words, picks, lengths, np.where(rows != source, rows % 10, -1))
    empty = pa.array([""] * chunk.rows, pa.string())
    ids = [f"{row // 10_000:05d}/{row:09d}.jpg" for row in rows.tolist()]
    name = f"00000-{chunk.number:05d}"
    minus = np.full(chunk.rows, -1, np.int64)
    paths = [f"/data/cc12m/{name}" for name in ids]
    catalog = dict(
        zip(
            CATALOG_SCHEMA.names,
            [
                ids,
                paths,
                minus,
                minus,
                pa.ListArray.from_arrays(np.arange(chunk.rows + 1, dtype=np.int32), texts),
                empty,
                empty,
                empty,
            ],
            strict=True,
        )
    )
    save_table(chunk.work / "catalog" / f"{name}.parquet", pa.table(catalog, schema=CATALOG_SCHEMA))
    save_table(chunk.work / "scan" / f"{name}.captions.parquet", describe(texts))
    size = rng.integers(256, 1024, (2, chunk.rows)).astype(np.int32)
    raw = [None, pa.py_buffer(colours.tobytes())]
    scan = {
        "status": empty.dictionary_encode(), "num_bytes": rng.integers(20_000, 300_000, chunk.rows),
        "bytes_hi": content, "bytes_lo": base_hash(content), "pixels_hi": content, "pixels_lo": base_hash(content + np.uint64(5)),
        "format": empty.dictionary_encode(), "mode": empty.dictionary_encode(), "width": size[0], "height": size[1],
        "orientation": np.ones(chunk.rows, np.int8), "phash": phash, "variance": np.where(flat, 1.0, 900.0).astype(np.float32),
        "colours": pa.FixedSizeBinaryArray.from_buffers(pa.binary(COLOUR_BYTES), chunk.rows, raw),
    }  # fmt: skip
    save_table(chunk.work / "scan" / f"{name}.parquet", pa.table(scan))
    return chunk.rows


def make_texts(words: Any, picks: Any, lengths: Any, again: Any) -> pa.Array:
    """Captions of `lengths` words, some with a last word, `again` and a digit (-1: none)."""
    known = pa.array([*words.tolist(), *(f"again{digit}" for digit in range(10))])
    numbers = np.concatenate((picks.astype(np.int64), np.zeros((len(picks), 1), np.int64)), axis=1)
    numbers[np.arange(len(picks)), lengths] = np.where(again >= 0, len(words) + again, 0)
    counts = lengths + (again >= 0)
    flat = known.take(pa.array(numbers[np.arange(numbers.shape[1])[None] < counts[:, None]]))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(offsets, flat), " ")


def describe(texts: pa.Array) -> pa.Table:
    """What the scan writes of one caption per image; statistics that no rule here uses are zero."""
    batch, sets, rows = words_of(texts), sets_of(texts), len(texts)
    keys = text.bands(text.signature(text.Words(sets.members.astype(np.uint64) << np.uint64(32), sets.starts)))
    columns: dict[str, Any] = {"row": np.arange(rows, dtype=np.int32), "text_hash": text.text_hashes(batch)}
    columns |= {"num_words": batch.counts.astype(np.int32), "num_chars": pc.utf8_length(texts)}
    columns |= {name: np.zeros(rows, np.float32) for name in ("digits", "punctuation", "repeated")}
    columns["script"] = pa.array(["latin"] * rows, pa.string()).dictionary_encode()
    return pa.table(columns | {f"band_{k:02d}": keys[:, k] for k in range(text.NUM_BANDS)})


def is_made(chunk: SyntheticChunk) -> bool:
    """True if `make_chunk` has finished this chunk."""
    return (chunk.work / "scan" / f"00000-{chunk.number:05d}.parquet").exists()


def make_corpus(work: Path, rows: int, workers: int) -> None:
    """Writes catalog and scan of `rows` images, and an evaluation set that contains some of them."""
    chunks = [SyntheticChunk(work, number, first, min(CHUNK, rows - first)) for number, first in enumerate(range(0, rows, CHUNK))]
    run_tasks(make_chunk, chunks, Parallel(workers), "make", size_of=lambda chunk: chunk.rows, is_done=is_made)
    listed = [{"name": f"00000-{c.number:05d}", "source": "cc12m", "first_row": c.first, "num_rows": c.rows} for c in chunks]
    sources = {"cc12m": {"kind": "synthetic", "listed": rows, "problems": {}, "examples": {}}}
    save_json(work / "catalog/settings.json", {"digest": "synthetic", "settings": {}})
    save_json(work / "catalog/done.json", {"num_rows": rows, "chunks": listed, "sources": sources})
    save_json(work / "scan/settings.json", {"digest": f"synthetic {rows}", "settings": {}})
    save_json(work / "scan/done.json", {"num_captions": rows, "status": {"cc12m": {"": rows}}, "contents": ""})
    rng = np.random.default_rng(99)
    taken = rng.choice(rows, min(EVALUATION, rows) // 4, replace=False)
    phash = np.concatenate((base_hash(taken + 10**9), rng.integers(0, 2**64, EVALUATION - len(taken), dtype=np.uint64)))
    other = rng.integers(1, 2**63, (4, EVALUATION), dtype=np.uint64)
    colours = np.repeat((phash >> np.uint64(56)).astype(np.uint8)[:, None] & 0xF0, COLOUR_BYTES, axis=1)
    names, variance = [str(i) for i in range(EVALUATION)], np.full(EVALUATION, 900, np.float32)
    columns = [["test"] * EVALUATION, names, names, *other, phash, variance, [row.tobytes() for row in colours]]
    save_table(work / "test.parquet", pa.table(dict(zip(HASHES_SCHEMA.names, columns, strict=True)), schema=HASHES_SCHEMA))


def measure(function: Callable[..., dict[str, Any]], *arguments: Any, num_tasks: int = 1) -> dict[str, Any]:
    """Calls `function` in new processes, as that many array tasks; returns its result, the CPU seconds of all, the peak memory of
    the largest and the wall seconds."""
    shares = [Parallel(1, "", index, num_tasks) for index in range(num_tasks)]
    with multiprocessing.get_context("spawn").Pool(num_tasks) as pool:
        waiting = [pool.apply_async(_measured, (function, (*arguments, share))) for share in shares]
        found = [result.get() for result in waiting]
    figures = {"CPU s": f"{sum(cpu for cpu, *_ in found):.1f}", "wall s": f"{max(wall for _, wall, *_ in found):.1f}"}
    return {"stage": function.__name__, **figures, "GB": f"{max(memory for _, _, memory, _ in found):.2f}", **found[0][3]}


def _measured(function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> tuple[float, float, float, dict[str, Any]]:
    cpu, wall = time.process_time(), time.perf_counter()
    found = function(*arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return time.process_time() - cpu, time.perf_counter() - wall, memory, found


def _counts(stage: StageFolder) -> str:
    counts = [(reason, c["pictures"], c["captions"]) for reason, c in stage.summary["counts"].items()]
    return ", ".join(f"{reason} {i:,} images {c:,} captions" for reason, i, c in counts if i or c)


def filter_rows(work: Path, share: Parallel) -> dict[str, Any]:
    """Runs the filter stage, which the array tasks do not share."""
    if share.task_index:
        return {}
    return {"found": _counts(filter_stage(work, FilterConfig(min_words=3)))}


def dedup(work: Path, share: Parallel) -> dict[str, Any]:
    """Runs the dedup stage, including near-duplicate captions."""
    stage = dedup_stage(work, DedupConfig(max_pictures_per_caption=5), share, share.num_tasks)
    figures = {key: value for key, value in stage.summary.items() if isinstance(value, int)}
    return {"found": f"{_counts(stage)}; {json.dumps(figures)}"}


def decontaminate(work: Path, share: Parallel) -> dict[str, Any]:
    """Runs the decontaminate stage against 40,000 evaluation images, 10,000 of them in the corpus."""
    known = [Known("test", work / "test.parquet", DecontaminateConfig())]
    stage = decontaminate_stage(work, known, {}, share, share.num_tasks)
    return {"found": json.dumps(stage.summary["sets"]["test"]["ways"])}


def plan(work: Path, share: Parallel) -> dict[str, Any]:
    """Runs the plan stage: permutation, plan per shard, table of decisions, fingerprints."""
    summary = plan_stage(work, PlanConfig(samples_per_shard=10_000), share, share.num_tasks).summary
    return {"found": f"{summary['num_samples']:,} samples in {summary['num_shards']:,} shards"}


def near_pairs(path: Path, share: Parallel) -> dict[str, Any]:
    """Searches for pairs within 3 bits among the distinct hashes of a file."""
    hashes = distinct(np.load(path))
    found = hamming.near_pairs(hashes, 3)
    return {"found": f"{len(hashes):,} distinct hashes, {len(found.left):,} pairs, {found.bounded_rows:,} rows in bounded runs"}


def search_rows(work: Path, count: int) -> list[dict[str, Any]]:
    """Measures the search for near pairs among `count` hashes, then with 3% of them near one flat hash."""
    hashes = planted_hashes(count)
    np.save(work / "hashes.npy", hashes)
    rows = [measure(near_pairs, work / "hashes.npy") | {"stage": "near_pairs, radius 3"}]
    rng = np.random.default_rng(1)
    some = rng.choice(len(hashes), int(0.03 * len(hashes)), replace=False)
    hashes[some] = np.uint64(0xAAAA000000000000)
    for _ in range(3):
        hashes[some] ^= np.uint64(1) << rng.integers(0, 64, len(some), dtype=np.uint64)
    np.save(work / "hashes.npy", hashes)
    del hashes
    return [*rows, measure(near_pairs, work / "hashes.npy") | {"stage": "near_pairs, 3% within 3 bits of one flat hash"}]


def projected(rows: list[dict[str, Any]], count: int, target: float = 400e6) -> list[str]:
    """Projects time and memory of the stages to `target` rows: time grows as n log n (sorting), memory as n."""
    stages = [row for row in rows if not row["stage"].startswith("near_pairs")] or rows
    seconds, memory = sum(float(row["CPU s"]) for row in stages), max(float(row["GB"]) for row in stages)
    factor = target / count
    hours = seconds * factor * math.log(target) / math.log(count) / 3600
    return [
        f"{count:,} rows, each stage in a separate process: {seconds:,.0f} CPU seconds, at most {memory:.2f} GB. Time grows as",
        f"n log n and memory as n, so {target / 1e6:,.0f} M rows would take about {hours:.1f} CPU hours and",
        f"{memory * factor:.0f} GB on one node; with less memory, add the sources in parts (`albef-data append`).",
    ]


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--rows", type=int, default=14_000_000)
    parser.add_argument("--work", type=Path, required=True, help="folder of the corpus (700 bytes a row), made if missing")
    parser.add_argument("--workers", type=int, default=2, help="processes that make the corpus")
    parser.add_argument("--num-tasks", type=int, default=1, help="array tasks that share each stage, with as many partitions")
    parser.add_argument("--no-hashes", action="store_true", help="leave the search for pairs out")
    parser.add_argument("--only-hashes", action="store_true", help="measure the search for pairs and leave the stages out")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    if not args.no_hashes:
        rows += search_rows(args.work, args.rows)
    if not args.only_hashes and not (args.work / "test.parquet").exists():
        make_corpus(args.work, args.rows, args.workers)
    for function in () if args.only_hashes else (filter_rows, dedup, decontaminate, plan):
        shutil.rmtree(args.work / function.__name__.removesuffix("_rows"), ignore_errors=True)
        rows.append(measure(function, args.work, num_tasks=args.num_tasks))
        print(rows[-1], flush=True)
    notes = projected(rows, args.rows)
    title, packages = "Dedup, decontamination and plan at scale", ["numpy", "scipy", "pyarrow"]
    write_record(args.out, title, notes, rows, packages, {"rows": args.rows})


if __name__ == "__main__":
    main()
