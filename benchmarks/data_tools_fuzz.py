"""Damages real inputs at random and runs every stage, `verify` and the loader over them.

    python -m benchmarks.data_tools_fuzz --cases 2000 --out benchmarks/data_tools_fuzz

A case is a seed. It chooses an input (a tar, a Parquet, CSV, TSV or JSON list, img2dataset's output, pictures, a corpus, a hash
file, a work folder), damages its bytes, and runs in a process of its own. Wanted is: no traceback; one line for what cannot be
used; at most 10 seconds of CPU time; what went in either comes out or is counted; a damaged corpus or work folder never gives
other data. `--seed N --cases 1 --keep FOLDER` repeats one case and keeps its files.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from albef_ds.common.errors import UserError
from albef_ds.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig, VisionConfig
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.stream.open import open_stream
from albef_ds.tasks.registry import kind_of
from benchmarks.damaged_inputs import PAIRS, SOURCES, captions, damage_file, picture_files
from benchmarks.record import record_parser, write_record
from data_tools.cli import main as albef_data
from data_tools.stages.catalog import Catalog
from data_tools.stages.hash_files import read_hashes
from data_tools.stages.plan_files import DECISIONS_NAME

CPU_SECONDS = 10
CHAIN = ["--samples-per-shard", "3", "--chunk-rows", "4", "--workers", "1"]


class FaultError(Exception):
    """The outcome is not as wanted."""


def run(*arguments: str) -> tuple[int, str]:
    """`albef-data` in this process: exit code and errors. Raises FaultError unless a failure is one line."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = albef_data(list(arguments))
    text = errors.getvalue().strip()
    if code not in (0, 1, 2) or "\n" in text or (code == 2 and not text):
        raise FaultError(f"{arguments[0]} ended with {code}: {text[:300]!r}")
    return code, text


def build(source: str, folder: Path, *more: str) -> tuple[int, str]:
    """Runs the whole chain."""
    return run("build", "--source", source, "--work", f"{folder}/work", "--out", f"{folder}/out", *CHAIN, *more)


def check_counts(folder: Path) -> None:
    """Raises FaultError unless every pair of the input came out or has a reason."""
    catalog = Catalog(folder / "work")
    source = catalog.sources["x"]
    dropped = len({row for row in pq.read_table(folder / "work" / "plan" / DECISIONS_NAME)["row"].to_pylist()})
    out = json.loads((folder / "out" / "manifest.json").read_text())["num_samples"]
    if out + dropped < source["listed"]:
        raise FaultError(f"{source['listed']} listed, {out} written, {dropped} dropped")
    # Rows that damage has made to name the same picture are one sample with the captions of all.
    pairs = sum(max(1, len(record.captions)) for chunk in catalog.chunks for record in catalog.records(chunk))
    if pairs < PAIRS and not source["problems"]:
        raise FaultError(f"{PAIRS - pairs} pairs are gone without a word")


def config_for(shards: str) -> RunConfig:
    """The configuration of a small run over `shards`."""
    data = DataConfig(shards=shards, num_workers=0, max_broken=1.0)
    train = TrainConfig(seed=0, micro_batch_size=2, global_batch_size=2)
    return RunConfig(model=ModelConfig(vision=VisionConfig(image_size=16)), data=data, train=train)


def load(shards: str) -> None:
    """Takes batches from the training loader; its failures are one line."""
    config = config_for(shards)
    with contextlib.suppress(UserError):
        stream = open_stream(config, kind_of(config.task).samples)
        try:
            list(islice(stream, 4))
        finally:
            stream.close()


def source_case(kind: str, folder: Path, draw: random.Random) -> str:
    """A damaged source through every stage, `verify` and the loader; the outcome."""
    (folder / "in").mkdir()
    source, paths = SOURCES[kind](folder / "in", draw)
    for path in paths:
        damage_file(path, draw)
    code, _ = build(source, folder)
    if code == 0:
        check_counts(folder)
        if run("verify", f"{folder}/out", "--workers", "1", "--decode")[0]:
            raise FaultError("the written corpus does not verify")
        load(f"{folder}/out")
    if kind == "tar" and paths[0].is_file():
        load(str(paths[0]))
    return "written" if code == 0 else "one line"


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def finished(folder: Path) -> None:
    """A finished work folder and its corpus, made once and copied."""
    (folder / "in").mkdir(parents=True)
    for name, caption in zip(picture_files(folder / "in"), captions(), strict=True):
        (folder / "in" / name).with_suffix(".txt").write_text(caption)
    if build(f"x=folder:{folder}/in", folder)[0]:
        raise FaultError("the undamaged input is not written")


def samples_of(folder: Path) -> Iterator[tuple[bytes, bytes] | None]:
    """The samples that the reader gives; None for one that it calls broken."""
    reader = ShardReader(folder)
    for shard, count in enumerate(reader.counts):
        for row in range(count):
            try:
                yield reader.read(shard, row)
            except BrokenSampleError:
                yield None


def _has_same_rows(path: Path, right: Path) -> bool:
    """True for a hash file in which only what says nothing of its rows is damaged, or that is gone: only `append` needs it."""
    try:
        return path.suffix == ".parquet" and (not path.exists() or bool(read_hashes(path).equals(read_hashes(right))))
    except UserError:
        return False


def corpus_case(whole: Path, folder: Path, draw: random.Random) -> str:
    """A damaged corpus: `verify`, the reader, the loader, and as a source."""
    shutil.copytree(whole / "out", folder / "out")
    path = draw.choice(sorted((folder / "out").iterdir()))
    damage_file(path, draw, pipes=False)
    same = contents(folder / "out") == contents(whole / "out") or _has_same_rows(path, whole / "out" / path.name)
    code, _ = run("verify", f"{folder}/out", "--workers", "1")
    if (code == 0) != same:
        raise FaultError(f"verify ended with {code} over a corpus whose {path.name} {'is whole' if same else 'is damaged'}")
    with contextlib.suppress(UserError):
        for found, right in zip(samples_of(folder / "out"), samples_of(whole / "out"), strict=False):
            if found not in (None, right):
                raise FaultError(f"the reader gives other bytes after damage of {path.name}")
    load(f"{folder}/out")
    (folder / "again").mkdir()
    build(f"x=shards:{folder}/out", folder / "again")
    run("append", "--source", f"x=folder:{whole}/in", "--work", f"{folder}/more", "--out", f"{folder}/out", *CHAIN)
    return "same" if same else "found"


def hashes_case(whole: Path, folder: Path, draw: random.Random) -> str:
    """A damaged hash file of an evaluation set: the same pictures are dropped, or one line."""
    (folder / "h.parquet").write_bytes((whole / "out" / "fingerprints.parquet").read_bytes())
    damage_file(folder / "h.parquet", draw)
    code, text = build(f"x=folder:{whole}/in", folder, "--against", f"e={folder}/h.parquet")
    if code == 0 or ("nothing was kept" not in text and "h.parquet" not in text):
        raise FaultError(f"the damaged hash file was used: {code}, {text[:200]!r}")
    return "one line" if "h.parquet" in text else "same"


def work_case(whole: Path, folder: Path, draw: random.Random) -> str:
    """A damaged work folder: the same corpus, or one line."""
    shutil.copytree(whole / "work", folder / "work")
    shutil.rmtree(folder / "work" / "shard")
    files = sorted(path for path in (folder / "work").rglob("*") if path.is_file() and path.name != "report.html")
    path = draw.choice(files)
    damage_file(path, draw)
    code, _ = build(f"x=folder:{whole}/in", folder)
    if code == 0 and contents(folder / "out") != contents(whole / "out"):
        raise FaultError(f"other output after damage of {path.relative_to(folder)}")
    return "one line" if code else "same"


CASES = (*SOURCES, *SOURCES, "corpus", "corpus", "hashes", "work", "work")


def run_case(seed: int, whole: Path, folder: Path) -> tuple[str, str]:
    """Kind and outcome of the case; an outcome that begins with `fault` is not as wanted."""
    draw = random.Random(seed)
    kind = CASES[seed % len(CASES)]
    others = {"corpus": corpus_case, "hashes": hashes_case, "work": work_case}
    try:
        return kind, others[kind](whole, folder, draw) if kind in others else source_case(kind, folder, draw)
    except FaultError as fault:
        return kind, f"fault: {fault}"
    except (Exception, SystemExit):
        return kind, f"fault: traceback: {' | '.join(traceback.format_exc().strip().splitlines()[-3:])[:600]}"


def _in_child(seed: int, whole: Path, folder: Path, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    pipe.send(run_case(seed, whole, folder))


def isolated(seed: int, whole: Path, keep: Path | None = None) -> tuple[str, str]:
    """As `run_case`, in a process of its own, so that a crash or a hang is an outcome too."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_in_child, args=(seed, whole, folder, sender))
        child.start()
        sender.close()
        try:
            found: tuple[str, str] = receiver.recv() if receiver.poll(30 * CPU_SECONDS) else ("", "fault: hang")
        except EOFError:
            child.join()
            found = ("", f"fault: the process died ({child.exitcode})")
        if child.is_alive():
            child.join(5)
            child.kill()
        child.join()
    return (found[0] or CASES[seed % len(CASES)]), found[1]


def fuzz(seeds: range, whole: Path, keep: Path | None = None) -> tuple[dict[str, Counter[str]], list[tuple[int, str]]]:
    """Runs the cases; outcomes by kind, and the faults with their seeds."""
    if not whole.exists():
        finished(whole)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in dict.fromkeys(CASES)}
    faults = []
    for seed in seeds:
        kind, outcome = isolated(seed, whole, keep)
        outcomes[kind][outcome.partition(":")[0]] += 1
        print(f"seed {seed}, {kind}: {outcome}", file=sys.stderr, flush=True)
        if outcome.startswith("fault"):
            faults.append((seed, f"{kind}: {outcome}"))
    return outcomes, faults


def main() -> None:
    """Runs the cases and writes the record."""
    parser = record_parser(__doc__, "benchmarks/data_tools_fuzz")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--keep", type=Path, help="keep the files of the case here, and write no record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-whole-") as name:
        seeds = range(arguments.seed, arguments.seed + arguments.cases)
        outcomes, faults = fuzz(seeds, Path(name) / "whole", arguments.keep)
    if arguments.keep:
        return
    columns = ("written", "one line", "same", "found", "fault")
    rows = [{"input": kind, **{column: counts[column] for column in columns}} for kind, counts in outcomes.items()]
    notes = [
        f"{arguments.cases} damaged inputs, each in a process of its own with at most {CPU_SECONDS} seconds of CPU time.",
        "`written`: a corpus that verifies, in which every pair of the input is or has a reason; `one line`: exit code 2;",
        "`same`: the damage changed nothing that is read; `found`: `verify` names the damage, the reader gives no other bytes;",
        "`fault`: a traceback, a hang, a crash, or data changed or lost without a word.",
        *(f"- seed {seed}: {fault}" for seed, fault in faults),
    ]
    write_record(arguments.out, "Damaged inputs", notes, rows, ["numpy", "pyarrow", "pillow"], {"faults": len(faults)})


if __name__ == "__main__":
    main()
