"""Compares the data tools with their peers from PyPI in one run on one thread: CPU seconds, the least of three turns each.

    pip install imagehash imagededup faiss-cpu datasketch webdataset
    OMP_NUM_THREADS=1 python -m benchmarks.data_tools_peers --out benchmarks/data_tools_peers

Peers and ours take turns, so that a busy machine disturbs both equally. Peers that are not installed are left out.
"""

from __future__ import annotations

import importlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from albef_ds.data.shards.reader import ShardReader, parse_meta
from benchmarks.jpegs import photograph
from benchmarks.record import record_parser, write_record
from data_tools.content import captions as text
from data_tools.content import images
from data_tools.files.shard_writer import ShardWriter
from data_tools.matching import hamming
from data_tools.matching.caption_duplicates import candidates, ends, keyed
from data_tools.matching.caption_sets import Sets, sets_of, similar
from data_tools.matching.components import components
from data_tools.matching.distinct import distinct

Row = dict[str, Any]
TURNS = 3


def peer(name: str) -> Any:
    """A peer's module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def least(forms: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """CPU seconds of each form, the least of TURNS turns."""
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(TURNS):
        for name, form in forms.items():
            start = time.process_time()
            form()
            best[name] = min(best[name], time.process_time() - start)
    return best


def rows_of(task: str, unit: str, count: dict[str, float], seconds: dict[str, float], note: dict[str, str]) -> list[Row]:
    """Table rows of one task, with ratios to `ours`."""
    rates = {name: count[name] / seconds[name] for name in seconds}
    rows = []
    for name, rate in rates.items():
        row = {"task": task, "tool": name, unit: f"{rate:,.0f}", "ours / this": f"{rates['ours'] / rate:.1f}"}
        rows.append(row | {"note": note.get(name, "")})
    return rows


def perceptual_hash(folder: Path) -> list[Row]:
    """Measures the way from file bytes to perceptual hashes."""
    rng = np.random.default_rng(0)
    contents = [photograph(rng) for _ in range(80)]
    paths = [folder / f"{i}.jpg" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    forms: dict[str, Callable[[], Any]] = {
        "ours": lambda: images.perceptual_hashes(contents),
        "ours, full decode": lambda: images.perceptual_hashes(contents, fast=False),
    }
    notes = {"ours": "JPEG decoded at reduced scale", "ours, full decode": "also allows the pixel hash"}
    if imagehash := peer("imagehash"):
        forms["imagehash"] = lambda: [imagehash.phash(Image.open(io.BytesIO(content))) for content in contents]
        theirs = np.array([int(str(h), 16) for h in forms["imagehash"]()], np.uint64)
        bits = np.bitwise_count(theirs ^ images.perceptual_hashes(contents))
        notes["ours"] += f"; {bits.mean():.2f} bits from imagehash on average, at most {bits.max()}"
    if methods := peer("imagededup.methods"):
        hasher = methods.PHash(verbose=False)
        forms["imagededup"] = lambda: [hasher.encode_image(image_file=path) for path in paths]
    title = f"perceptual hash, 640 x 480, {np.mean([len(content) for content in contents]) / 1000:.0f} KB"
    return rows_of(title, "per CPU second", dict.fromkeys(forms, 80.0), least(forms), notes)


def planted_hashes(count: int, seed: int = 0) -> NDArray[np.uint64]:
    """`count` distinct hashes in random order, 30% of them within 3 bits of another."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = int(0.3 * count)
    changed = hashes[rng.integers(0, count - copies, copies)]
    for _ in range(3):
        changed ^= np.where(rng.random(copies) < 0.7, np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64), np.uint64(0))
    hashes[-copies:] = changed
    return np.asarray(rng.permutation(np.unique(hashes)))


def near_pairs(folder: Path) -> list[Row]:
    """Measures the search for pairs within 3 bits among a million hashes."""
    hashes = planted_hashes(1_000_000)
    count, queries = len(hashes), 50_000
    forms: dict[str, Callable[[], Any]] = {"ours": lambda: hamming.near_pairs(hashes, 3)}
    counts, notes = {"ours": float(count)}, {}
    if faiss := peer("faiss"):
        faiss.omp_set_num_threads(1)
        raw = hashes.view(np.uint8).reshape(-1, 8)
        start = time.process_time()
        index = faiss.IndexBinaryMultiHash(64, 4, 16)
        index.add(raw)
        build = time.process_time() - start
        forms["faiss MultiHash"] = lambda: index.range_search(raw[:queries], 4)
        limits, _, found = forms["faiss MultiHash"]()
        left = np.repeat(np.arange(queries), np.diff(limits.astype(np.int64)))
        theirs = {(int(a), int(b)) for a, b in zip(left, found, strict=True) if a < b}
        ours = forms["ours"]()
        mine = {(a, b) for a, b in zip(ours.left.tolist(), ours.right.tolist(), strict=True) if a < queries}
        counts["faiss MultiHash"] = float(queries)
        recall = len(mine & theirs) / len(theirs)
        notes["ours"] = f"recall {recall:.4f} of faiss's {len(theirs):,} pairs, {len(mine - theirs)} others"
        notes["faiss MultiHash"] = f"from {queries:,} queries; building, {build:.1f} s, not counted"
    return rows_of("rows searched for pairs within 3 bits, 1M hashes", "per CPU second", counts, least(forms), notes)


def captions(folder: Path) -> list[Row]:
    """Measures the way from texts to verified near-duplicate pairs."""
    rng = np.random.default_rng(0)
    vocabulary = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(20_000)]
    frequency = 1 / np.arange(1, 20_001)
    frequency /= frequency.sum()
    base = [[vocabulary[j] for j in rng.choice(20_000, rng.integers(6, 18), p=frequency)] for _ in range(70_000)]
    changed = []
    for words in base[:30_000]:
        copy = list(words)
        copy[int(rng.integers(len(copy)))] = vocabulary[int(rng.integers(20_000))]
        changed.append(copy)
    texts = [" ".join(words) for words in base + changed]
    small = 5000

    def run() -> tuple[NDArray[np.int32], Sets]:
        parts = [texts[i : i + 10_000] for i in range(0, len(texts), 10_000)]
        batches = [text.words([text.normalise(line) for line in part]) for part in parts]
        keys = np.concatenate([text.bands(text.signature(text.shingles(batch))) for batch in batches])
        sets = sets_of(pa.array(texts))
        numbers = np.arange(len(texts))
        pairs = distinct(np.concatenate([candidates(keyed(keys[:, band], numbers)) for band in range(text.NUM_BANDS)]))
        pairs = pairs[similar(sets, *ends(pairs), 0.7)]
        return components(*ends(pairs), len(texts)), sets

    labels, sets = run()
    left, right = np.arange(30_000), np.arange(70_000, 100_000)
    alike = similar(sets, left, right, 0.7)
    recall = float((labels[left] == labels[right])[alike].mean())
    forms: dict[str, Callable[[], Any]] = {"ours": run}
    counts = {"ours": float(len(texts))}
    notes = {"ours": f"recall {recall:.4f} of {int(alike.sum()):,} planted pairs at Jaccard 0.7"}
    if datasketch := peer("datasketch"):
        sample = texts[: small // 2] + texts[70_000 : 70_000 + small // 2]

        def theirs() -> None:
            lsh = datasketch.MinHashLSH(params=(16, 4), num_perm=64)
            for number, line in enumerate(sample):
                words = line.split()
                sketch = datasketch.MinHash(num_perm=64)
                sketch.update_batch([w.encode() for w in words] + [f"{a} {b}".encode() for a, b in pairwise(words)])
                lsh.query(sketch)
                lsh.insert(number, sketch)

        forms["datasketch"] = theirs
        counts["datasketch"] = float(len(sample))
        notes["datasketch"] = "same sets, permutations and bands; pairs not verified"
    return rows_of("captions to near-duplicate pairs, 100,000", "per CPU second", counts, least(forms), notes)


def tars(folder: Path) -> list[Row]:
    """Measures writing and reading tars of two image sizes."""
    webdataset, rows = peer("webdataset"), []
    for size, count in ((9_000, 8000), (168_000, 1000)):
        image = np.random.default_rng(0).bytes(size)
        metas = [{"captions": [f"a caption of picture {i}"], "image_id": f"source/{i}", "source": "source"} for i in range(count)]

        def ours(image: bytes = image, metas: list[dict[str, Any]] = metas) -> None:
            shutil.rmtree(folder / "ours", ignore_errors=True)
            with ShardWriter(folder / "ours", samples_per_shard=1000) as writer:
                for meta in metas:
                    writer.add(image, "jpg", meta)

        def theirs(image: bytes = image, metas: list[dict[str, Any]] = metas) -> None:
            (folder / "theirs").mkdir(exist_ok=True)
            with webdataset.ShardWriter(str(folder / "theirs/%05d.tar"), maxcount=1000, verbose=0) as writer:
                for number, meta in enumerate(metas):
                    writer.write({"__key__": f"{number:09d}", "jpg": image, "json": meta})

        writers: dict[str, Callable[[], Any]] = {"ours": ours} | ({"webdataset": theirs} if webdataset else {})
        notes = {"ours": "checksums, index and manifest included"}
        title, counts = f"tar writing, {size // 1000} KB", dict.fromkeys(writers, float(count))
        rows += rows_of(title, "per CPU second", counts, least(writers), notes)
        order = np.random.default_rng(1).permutation(count)

        def read_ours(order: NDArray[np.int64] = order, check: bool = False) -> None:
            reader = ShardReader(folder / "ours", check=check)
            for place in order.tolist():
                _, meta = reader.read(place // 1000, place % 1000)
                parse_meta(meta)

        def read_theirs(count: int = count) -> None:
            urls = [str(folder / f"theirs/{i:05d}.tar") for i in range(count // 1000)]
            for sample in webdataset.WebDataset(urls, shardshuffle=False):
                json.loads(sample["json"])

        readers: dict[str, Callable[[], Any]] = {"ours": read_ours, "ours, checked": lambda read=read_ours: read(check=True)}
        readers |= {"webdataset": read_theirs} if webdataset else {}
        notes = {"ours": "`albef_ds.data.shards.reader`, in random order", "webdataset": "in order"}
        notes["ours, checked"] = "every member compared with its checksum, as in training"
        counts = dict.fromkeys(readers, float(count))
        rows += rows_of(title.replace("writing", "reading"), "per CPU second", counts, least(readers), notes)
    return rows


TASKS = (perceptual_hash, near_pairs, captions, tars)


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--only", choices=[task.__name__ for task in TASKS], help="measure one task")
    args = parser.parse_args()
    rows: list[Row] = []
    for task in TASKS:
        if args.only not in (None, task.__name__):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows += task(Path(folder))
    peers = ("imagehash", "imagededup", "faiss-cpu", "datasketch", "webdataset")
    packages = ["numpy", "pillow", "simplejpeg", "xxhash", "pyarrow", *(name for name in peers if peer(name.replace("-cpu", "")))]
    notes = ["One thread, synthetic images, hashes and texts. CPU seconds, the least of three alternating turns."]
    write_record(args.out, "Data tools beside their peers", notes, rows, packages, {"turns": TURNS})


if __name__ == "__main__":
    main()
