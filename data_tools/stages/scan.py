"""The scan: one pass over each image's bytes and each caption, one task per chunk of the catalog.

Each task writes `NAME.captions.parquet` (a row per caption) and then `NAME.parquet` (a row per image), whose presence marks
the task as done. Where the chunks are too few for the processes of a pool, they are scanned in parts, which are joined. The scan
drops nothing; `status` only records what could not be read.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError
from data_tools.config import MAX_PIXELS
from data_tools.content import captions as text
from data_tools.content import images
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.execution.stage_folder import DONE_NAME, StageFolder, open_stage, read_columns
from data_tools.files.storage import ByteReader, save_table
from data_tools.readers.source import NO_CAPTION, Record
from data_tools.stages.catalog import Catalog, Chunk

RETRIED = ("missing file", "unreadable")
"""Statuses that a retry may change."""
_MARK = re.compile(r"[^\w\s]|_")  # neither `isalnum` nor `isspace`
_BATCH = 256  # thumbnails whose signatures are computed together


_PARTS = "*.*-*.parquet"  # results of parts: CHUNK.FIRST-LAST.parquet and CHUNK.FIRST-LAST.captions.parquet
_PARTS_PER_WORKER = 4  # of unequal cost: the last one must not keep the others waiting
_LEAST_PART = 128


@dataclass(frozen=True)
class _Task:
    work: Path
    folder: Path
    chunk: Chunk
    max_pixels: int
    fast: bool
    first: int = 0
    """First row of the chunk to scan."""
    last: int = sys.maxsize
    """The row behind the last one."""

    @property
    def result(self) -> Path:
        """The file that is there when the task is done, as `.captions.parquet` with its captions is."""
        whole = self.first == 0 and self.last >= self.chunk.num_rows
        return self.folder / f"{self.chunk.name}{'' if whole else f'.{self.first}-{self.last}'}.parquet"

    @property
    def captions(self) -> Path:
        """The file of the captions."""
        return self.result.with_suffix(".captions.parquet")


def scan(
    work: Path,
    parallel: Parallel,
    *,
    max_pixels: int = MAX_PIXELS,
    fast: bool = False,
    restart: bool = False,
    retry: bool = False,
) -> StageFolder | None:
    """Scans every chunk of the catalog into `work/scan`; None while other array tasks have not done their share.

    `fast` decodes JPEGs at a reduced scale, without a pixel hash. `retry` scans chunks with missing or unreadable files again.
    Raises UserError if the catalog is not finished, a setting is wrong, or the stage has other settings.
    """
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}: give 1 or more")
    catalog = Catalog(work)
    settings = {"catalog": catalog.stage.digest, "max_pixels": max_pixels, "fast": fast}
    stage = open_stage(work, "scan", settings, is_map=True, restart=restart)
    if retry:
        (stage.folder / DONE_NAME).unlink(missing_ok=True)
        _remove_parts(stage.folder)
        for chunk in catalog.chunks:
            path = stage.folder / f"{chunk.name}.parquet"
            if (
                path.exists()
                and pc.any(pc.is_in(read_columns(stage.folder, path.name, ["status"])["status"], pa.array(RETRIED))).as_py()
            ):
                path.unlink()
    if stage.done:
        return stage
    tasks = [_Task(work, stage.folder, chunk, max_pixels, fast) for chunk in catalog.chunks]
    parts = _parts([task for task in tasks if not _is_done(task)], parallel)
    run_tasks(_scan_rows, parts or tasks, parallel, "scan", size_of=_num_rows, unit="image", is_done=_is_done)
    for task in tasks if parts else ():
        if not _is_done(task):
            _join(task, [part for part in parts if part.chunk == task.chunk])
    if not all(_is_done(task) for task in tasks):
        return None
    _remove_parts(stage.folder)
    stage.finish(_summary(stage, catalog))
    return stage


def _is_done(task: _Task) -> bool:
    return task.result.exists()


def _num_rows(task: _Task) -> int:
    return min(task.last, task.chunk.num_rows) - task.first


def _parts(tasks: list[_Task], parallel: Parallel) -> list[_Task]:
    """Returns `tasks` in parts of which each process of a pool gets several; empty if there are enough tasks, or no pool here."""
    wanted = _PARTS_PER_WORKER * parallel.processes
    if parallel.processes == 1 or parallel.is_share or not 0 < len(tasks) < wanted:
        return []
    size = max(_LEAST_PART, -(-sum(map(_num_rows, tasks)) // wanted))
    return [replace(task, first=row, last=row + size) for task in tasks for row in range(0, task.chunk.num_rows, size)]


def _remove_parts(folder: Path) -> None:
    for path in folder.glob(_PARTS):
        path.unlink()


def _join(task: _Task, parts: list[_Task]) -> None:
    for path, of_parts in ((task.captions, [part.captions for part in parts]), (task.result, [part.result for part in parts])):
        tables = [read_columns(task.folder, part.name) for part in of_parts]
        save_table(path, pa.concat_tables(tables).unify_dictionaries().combine_chunks())


def _summary(stage: StageFolder, catalog: Catalog) -> dict[str, Any]:
    status: dict[str, Counter[str]] = {name: Counter() for name in catalog.sources}
    captions, contents = 0, xxhash.xxh3_128()
    for chunk in catalog.chunks:
        table = read_columns(stage.folder, f"{chunk.name}.parquet", ["status", "bytes_lo"])
        status[chunk.source].update(table["status"].to_pylist())
        contents.update(table["bytes_lo"].to_numpy().tobytes())
        captions += len(read_columns(stage.folder, f"{chunk.name}.captions.parquet", ["row"]))
    # With the digest of what was read, later stages run again after a retry, or when files have changed since the catalog.
    counts = {name: dict(found) for name, found in status.items()}
    return {"num_captions": captions, "status": counts, "contents": contents.hexdigest()}


def _scan_rows(task: _Task) -> int:
    records = list(Catalog(task.work).records(task.chunk, task.first, task.last))
    save_table(task.captions, describe_captions([record.captions for record in records], first=task.first))
    save_table(task.result, describe_images(records, max_pixels=task.max_pixels, fast=task.fast))
    return len(records)


def describe_images(records: list[Record], *, max_pixels: int = MAX_PIXELS, fast: bool = False) -> pa.Table:
    """Reads and decodes the image of each record; a row each, with an empty `status` if all went well.

    An image without captions is described too, with the status `NO_CAPTION`, so that hash files can hold it.
    """
    size = len(records)
    status = [""] * size
    formats, modes = [""] * size, [""] * size
    shape = np.zeros((size, 2), np.int32)
    orientation, num_bytes = np.ones(size, np.int8), np.zeros(size, np.int64)
    hashes = np.zeros((size, 4), np.uint64)
    phash, variance = np.zeros(size, np.uint64), np.zeros(size, np.float32)
    colours = np.zeros((size, images.COLOUR_BYTES), np.uint8)
    rows: list[int] = []
    thumbnails: list[NDArray[np.uint8]] = []
    reader = ByteReader()

    def flush() -> None:
        if rows:
            found = images.signatures(np.stack(thumbnails))
            phash[rows], variance[rows], colours[rows] = found.phash, found.variance, found.colours
            rows.clear()
            thumbnails.clear()

    for i, record in enumerate(records):
        try:
            absent = record.missing not in ("", NO_CAPTION)
            content = b"" if absent else reader.read(record.path, record.offset, record.size)
            num_bytes[i] = len(content)
            hashes[i, :2] = _halves(xxhash.xxh3_128_digest(content))
            decoded = images.decode(content, max_pixels=max_pixels, fast=fast) if not absent else None
        except FileNotFoundError:
            status[i] = "missing file"
        except OSError:
            status[i] = "unreadable"
        except images.BrokenImage as problem:
            status[i] = str(problem)
        else:
            status[i] = record.missing
            if decoded is None:
                continue
            formats[i], modes[i], orientation[i] = decoded.format, decoded.mode, decoded.orientation
            shape[i] = decoded.width, decoded.height
            if not fast or decoded.pixels.shape[:2] == (decoded.height, decoded.width):
                hashes[i, 2:] = _halves(decoded.pixel_hash())
            rows.append(i)
            thumbnails.append(decoded.thumbnail())
            if len(rows) == _BATCH:
                flush()
    flush()
    reader.close()
    return pa.table(
        {
            "status": pa.array(status).dictionary_encode(),
            "num_bytes": num_bytes,
            "bytes_hi": hashes[:, 0],
            "bytes_lo": hashes[:, 1],
            "pixels_hi": hashes[:, 2],
            "pixels_lo": hashes[:, 3],
            "format": pa.array(formats).dictionary_encode(),
            "mode": pa.array(modes).dictionary_encode(),
            "width": shape[:, 0],
            "height": shape[:, 1],
            "orientation": orientation,
            "phash": phash,
            "variance": variance,
            "colours": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(images.COLOUR_BYTES), size, [None, pa.py_buffer(colours.tobytes())]
            ),
        }
    )


def _halves(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def describe_captions(captions: list[list[str]], *, first: int = 0) -> pa.Table:
    """A row per caption: `row` of its image in the chunk, from `first`, statistics, hash of its words, MinHash bands."""
    owners = np.repeat(np.arange(first, first + len(captions), dtype=np.int32), [len(texts) for texts in captions])
    flat = [caption for texts in captions for caption in texts]
    batch = text.words([text.normalise(caption) for caption in flat])
    keys = text.bands(text.signature(text.shingles(batch)))
    lengths = np.maximum([len(caption) for caption in flat], 1)
    digits = np.array([sum(map(str.isdigit, caption)) for caption in flat], np.float32) / lengths
    marks = np.array([len(_MARK.findall(caption)) for caption in flat], np.float32) / lengths
    columns: dict[str, Any] = {
        "row": owners,
        "text_hash": text.text_hashes(batch),
        "num_words": batch.counts.astype(np.int32),
        "num_chars": np.array([len(caption) for caption in flat], np.int32),
        "digits": digits.astype(np.float32),
        "punctuation": marks.astype(np.float32),
        "repeated": text.repeated_shares(batch),
        "script": pa.array([text.script_of(caption) for caption in flat], pa.string()).dictionary_encode(),
    }
    columns |= {f"band_{k:02d}": keys[:, k] for k in range(text.NUM_BANDS)}
    return pa.table(columns)
