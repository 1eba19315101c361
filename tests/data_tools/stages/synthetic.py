"""A working folder up to the scan, of images that exist only as hashes: many equal, near, flat and missing ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.content.images import COLOUR_BYTES
from data_tools.execution.stage_folder import StageFolder
from data_tools.files.storage import save_json, save_table
from data_tools.stages.catalog import SCHEMA as CATALOG_SCHEMA
from data_tools.stages.hash_files import SCHEMA as HASHES_SCHEMA
from data_tools.stages.scan import describe_captions

_WORDS = "a red blue big small old cat dog horse child runs sits on in the grass street house with of two three near photo"


def synthetic_work(work: Path, rows: int = 1200, chunk_rows: int = 130) -> Path:
    """Writes catalog and scan of `rows` images of two sources to `work`, and an evaluation set `test.parquet` with some."""
    rng = np.random.default_rng(7)
    number = np.arange(rows)
    kind = rng.random(rows)
    origin = np.where(kind < 0.4, rng.integers(0, np.maximum(number, 1)), number)
    keys = rng.integers(1, 2**63, (6, rows), dtype=np.uint64)
    content = np.where(kind < 0.1, keys[0][origin], keys[0])
    pixels = np.where(kind < 0.2, keys[1][origin], keys[1])
    near = np.uint64(1) << rng.integers(0, 64, rows, dtype=np.uint64) | np.uint64(1) << rng.integers(0, 64, rows, dtype=np.uint64)
    phash = np.where(kind < 0.4, keys[2][origin] ^ np.where(kind < 0.2, np.uint64(0), near), keys[2])
    phash[rng.random(rows) < 0.2] = np.uint64(0xF0F0) ^ np.uint64(3)  # of one look, but of several colours
    colours = np.repeat((phash >> np.uint64(60)).astype(np.uint8)[:, None] * 9, COLOUR_BYTES, axis=1)
    colours = colours ^ (rng.random((rows, 1)) < 0.2).astype(np.uint8) * 64
    status = np.where(rng.random(rows) < 0.03, "missing file", "")
    texts = [_captions(rng) for _ in range(rows)]
    chunks = []
    for place, first in enumerate(range(0, rows, chunk_rows)):
        part = slice(first, min(first + chunk_rows, rows))
        size, name, source = part.stop - first, f"00000-{place:05d}", "one" if first < rows // 3 else "two"
        ids = [f"{row:05d}.jpg" for row in range(first, part.stop)]
        empty, minus = [""] * size, [-1] * size
        listed = [ids, [f"/data/{name}" for name in ids], minus, minus, texts[part], empty, empty, empty]
        save_table(
            work / "catalog" / f"{name}.parquet", pa.table(dict(zip(CATALOG_SCHEMA.names, listed, strict=True)), CATALOG_SCHEMA)
        )
        save_table(work / "scan" / f"{name}.captions.parquet", describe_captions(texts[part]))
        raw = [None, pa.py_buffer(np.ascontiguousarray(colours[part]).tobytes())]
        scan = {
            "status": pa.array(status[part].tolist()).dictionary_encode(), "num_bytes": rng.integers(1000, 1010, size),
            "bytes_hi": content[part] ^ np.uint64(1), "bytes_lo": content[part], "pixels_hi": pixels[part],
            "pixels_lo": pixels[part] ^ np.uint64(9), "format": pa.array(empty).dictionary_encode(),
            "mode": pa.array(empty).dictionary_encode(), "width": rng.integers(200, 203, size).astype(np.int32),
            "height": rng.integers(200, 203, size).astype(np.int32), "orientation": rng.integers(1, 3, size).astype(np.int8),
            "phash": phash[part], "variance": np.where(kind[part] > 0.95, 1.0, 900.0).astype(np.float32),
            "colours": pa.FixedSizeBinaryArray.from_buffers(pa.binary(COLOUR_BYTES), size, raw),
        }  # fmt: skip
        save_table(work / "scan" / f"{name}.parquet", pa.table(scan))
        chunks.append({"name": name, "source": source, "first_row": first, "num_rows": size})
    sources = {source: {"kind": "synthetic", "listed": rows, "problems": {}, "examples": {}} for source in ("one", "two")}
    done = {"num_captions": sum(map(len, texts)), "status": {"one": {"": rows}, "two": {"": rows}}, "contents": ""}
    for stage, summary in (("catalog", {"num_rows": rows, "chunks": chunks, "sources": sources}), ("scan", done)):
        save_json(work / stage / "settings.json", {"digest": "synthetic", "settings": {}})
        StageFolder(work / stage, "synthetic").finish(summary)
    taken = np.arange(0, rows, 10)
    hashes = [content ^ np.uint64(1), content, pixels, pixels ^ np.uint64(9), phash]
    hashes = [values[taken] for values in hashes]
    hashes[0][::2] += np.uint64(5)
    hashes[2][::3] += np.uint64(5)
    names = [f"t{row}" for row in taken]
    raw = [np.full(len(taken), 900, np.float32), [bytes(row) for row in colours[taken]]]
    table = dict(zip(HASHES_SCHEMA.names, [["test"] * len(taken), names, names, *hashes, *raw], strict=True))
    save_table(work / "test.parquet", pa.table(table, schema=HASHES_SCHEMA))
    return work


def _captions(rng: np.random.Generator) -> list[str]:
    texts, words_known = [], _WORDS.split()
    for _ in range(int(rng.integers(0, 4))):
        words = [words_known[i] for i in rng.integers(0, len(words_known), rng.integers(2, 7))]
        kind = rng.random()
        if kind < 0.3:
            words = ["a", "red", "cat", "sits", "on", "the", "grass", "near", "the", "house", "with", "two", *words[:1]]
        texts.append(" ".join(words).upper() if kind < 0.1 else " ".join(words) + " é" * (kind > 0.95))
    return texts
