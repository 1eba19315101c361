"""Measures searches: a second query of the command on many images, exact and approximate search of many features.

    python -m benchmarks.search --model runs/demo --beside OTHER --features 200000 1000000 --out benchmarks/search

OTHER is a checkout of an earlier version, measured in turn with this one; its index is made first. CPU seconds are user and
system time of the process. Features are random unit vectors around random centres, since independent ones have no neighbours.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from albef_ds.common.processes import python_path
from albef_ds.inference.index.approximate import Approximate, recall
from albef_ds.inference.index.nearest import nearest
from albef_ds.inference.index.store import FeatureStore, Table
from benchmarks.record import record_parser, write_record

NOTES = [
    "CPU time is user and system time of the process, with one thread; wall time in brackets. A query is for 64 images.",
    "Approximate search takes the graph's candidates and computes their similarities exactly.",
]
_DIM = 256
_PART = 50_000


def photos_in(folder: Path, number: int) -> None:
    """Writes small JPEGs of random colours."""
    generator = np.random.default_rng(0)
    for first in range(0, number, 1000):
        place = folder / f"{first // 1000:03d}"
        place.mkdir(parents=True)
        for name in range(first, min(first + 1000, number)):
            colours = Image.fromarray(generator.integers(0, 256, (4, 6, 3), np.uint8))
            colours.resize((48, 32)).save(place / f"{name:06d}.jpg", quality=80)


def second_query(model: Path, photos: Path, folder: Path, checkouts: dict[str, str], turns: int) -> list[dict[str, Any]]:
    """CPU seconds of a later `albef-ds search` of each checkout, alternating."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    for turn in range(turns + 2):
        for name, place in checkouts.items():
            options = ["--model", str(model), "--images", str(photos), "--index", str(folder / f"{name}.index")]
            command = [sys.executable, "-m", "albef_ds.cli.main", "search", *options, "--text", "a red apple"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            environment = {**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1"}
            # In another folder, since `python -m` takes the package of the current one first.
            command += ["--output", str(folder / "page.html")]
            subprocess.run(command, check=True, env=environment, capture_output=True, cwd=folder)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if turn > 1:  # the first call indexes, and the second keeps the tokens of what it judges
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                seconds[name].append((used, 0.0))
    found = {name: median(used for used, _ in values) for name, values in seconds.items()}
    rows = [("second query of the command", name, f"{value:.2f} CPU s") for name, value in found.items()]
    if len(found) > 1:
        now, other = found.values()
        rows.append(("the same", "ratio", f"{now / other:.2f}"))
    used = []
    for _ in range(turns):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import torch"], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    rows.append(("import of torch alone", "", f"{median(used):.2f} CPU s"))
    return [{"what": what, "of": name, "figure": figure} for what, name, figure in rows]


def served_query(model: Path, photos: Path, index: Path, turns: int) -> list[dict[str, Any]]:
    """Milliseconds of what `albef-ds serve` does for words before ITM: their features, and the nearest images."""
    from albef_ds.inference.model import load  # start-up time
    from albef_ds.inference.search import index_folder

    loaded = load(model, device="cpu")
    opened = index_folder(loaded, photos, index)
    wall, cpu = timed(lambda: opened.nearest(loaded.encode_text("a red apple").float(), 48), 10 * turns)
    return [{"what": "query of the server before ITM", "of": "now", "figure": f"{cpu:.0f} ms CPU ({wall:.0f} ms)"}]


def features_in(folder: Path, number: int) -> Table:
    """A store of `number` features around number / 100 centres."""
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(max(number // 100, 1), _DIM)).astype(np.float32)
    store = FeatureStore(folder / "features", "random", _DIM)
    for first in range(0, number, _PART):
        count = min(_PART, number - first)
        part = centres[generator.integers(len(centres), size=count)] + generator.normal(size=(count, _DIM)).astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        store.append([f"{name:08d}" for name in range(first, first + count)], ["1"] * count, part)
    return store.table(store.stamps)


def queries(table: Table, number: int) -> torch.Tensor:
    """Unit vectors near some of the features."""
    generator = np.random.default_rng(2)
    chosen = table.features[generator.integers(len(table.features), size=number)]
    moved = chosen + 0.05 * generator.normal(size=chosen.shape).astype(np.float32)
    return torch.from_numpy(moved / np.linalg.norm(moved, axis=1, keepdims=True))


def private_memory() -> float:
    """MB of this process that are no pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000


def timed(call: Callable[[], Any], turns: int) -> tuple[float, float]:
    """Median milliseconds of wall and of CPU."""
    wall, cpu = [], []
    for _ in range(turns):
        began, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return 1000 * median(wall), 1000 * median(cpu)


def large(folder: Path, number: int, turns: int, graphs: int) -> list[dict[str, Any]]:
    """Exact and approximate search of `number` features."""
    table = features_in(folder, number)
    began, used = time.perf_counter(), time.process_time()
    store = FeatureStore(folder / "features", "random", _DIM)
    opened = store.table(store.stamps)
    opened.places  # noqa: B018 (is computed once)
    rows = [
        ("opening the index, checksums included", f"{time.process_time() - used:.2f} CPU s ({time.perf_counter() - began:.2f} s)")
    ]
    asked = queries(opened, 32)
    before = private_memory()
    wall, cpu = timed(lambda: nearest(opened, asked[:1], 64), turns)
    rows.append(("exact, one query", f"{cpu:.0f} ms CPU ({wall:.0f} ms)"))
    wall, cpu = timed(lambda: nearest(opened, asked, 64), 3)
    rows += [("exact, 32 queries at once, each", f"{cpu / 32:.1f} ms CPU ({wall / 32:.1f} ms)")]
    added, whole = max(private_memory() - before, 0), table.features.nbytes / 1e6
    rows += [("memory that exact search adds", f"{added:.0f} MB; the features have {whole:.0f} MB")]
    if number <= graphs:
        rows += approximate(opened, folder, asked, turns)
    return [{"what": what, "of": f"{number:,} features", "figure": figure} for what, figure in rows]


def approximate(opened: Table, folder: Path, asked: torch.Tensor, turns: int) -> list[tuple[str, str]]:
    """Rows about the graph of neighbours."""
    used = time.process_time()
    graph = Approximate.of(opened, folder / "features")
    rows = [("building the graph of neighbours", f"{time.process_time() - used:.0f} CPU s")]
    wall, cpu = timed(lambda: graph.nearest(opened, asked[:1], 64), turns)
    found = recall(graph.nearest(opened, asked, 64), nearest(opened, asked, 64))
    rows += [("approximate, one query", f"{cpu:.2f} ms CPU ({wall:.2f} ms)"), ("recall@64 of 32 queries", f"{found:.3f}")]
    return [*rows, ("recall@64 that the program states, of its own images", f"{graph.recall:.3f}")]


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--model", type=Path, help="measures the command's second query with it")
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--beside", help="a checkout of an earlier version")
    parser.add_argument("--features", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--graphs", type=int, default=200_000, help="largest number of features with a graph")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.model:
            photos_in(folder / "photos", arguments.photos)
            checkouts = {"now": python_path(), **({"earlier": arguments.beside} if arguments.beside else {})}
            rows += second_query(arguments.model.absolute(), folder / "photos", folder, checkouts, arguments.turns)
            rows += served_query(arguments.model, folder / "photos", folder / "now.index", arguments.turns)
        for number in arguments.features:
            (folder / str(number)).mkdir()
            rows += large(folder / str(number), number, 2 * arguments.turns, arguments.graphs)
    write_record(arguments.out, "Search", NOTES, rows, ["torch", "numpy", "usearch"], {"turns": arguments.turns})


if __name__ == "__main__":
    main()
