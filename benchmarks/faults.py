"""Kills training runs repeatedly at random moments, and compares their results with undisturbed runs.

    python -m benchmarks.faults --kills 40 --out benchmarks/faults

For ZeRO stages 1 to 3 on 1, 2 and 4 ranks, and for one run that changes both with every start: SIGKILL to one rank or all,
during start-up, between steps and while a checkpoint is written; `--resume auto` until the last step. Samples are compared by
position and key for every step of every attempt, losses with an undisturbed run of the same stage and ranks.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.record import record_parser, write_record
from data_tools.files.shard_writer import ShardWriter
from tests.data.conftest import sample
from tests.faults import harness

STAGES, RANKS = (1, 2, 3), (1, 2, 4)
GLOBAL_BATCH = 8
TIME_LIMIT = 600.0


def corpus(folder: Path) -> Path:
    """Writes 40 pairs, so few that a run crosses epochs."""
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for number in range(40):
            writer.add(*sample(number))
    return folder


def finish(output: Path, ranks: int, line: list[str]) -> float:
    """Runs to the end; returns the seconds."""
    started = time.perf_counter()
    job = harness.start(output, ranks, line)
    codes = job.join(TIME_LIMIT)
    if codes != [0] * ranks:
        raise SystemExit(f"an undisturbed run ended with {codes}:\n{job.errors()}")
    return time.perf_counter() - started


def disturbed(
    output: Path, places: Iterator[tuple[int, int]], line: list[str], kills: int, steps: int, seed: int
) -> list[harness.Kill]:
    """Kills a run `kills` times; `places` are ranks and stage of each attempt."""
    chance, done = random.Random(seed), list[harness.Kill]()
    while len(done) < kills:
        ranks, stage = next(places)
        kill = harness.disturb(harness.start(output, ranks, [*line, f"engine.stage={stage}"]), chance, steps, TIME_LIMIT)
        if kill is None:  # the run ended before the kill
            break
        done.append(kill)
        print(f"  {kill}", flush=True)
    ranks, stage = next(places)
    finish(output, ranks, [*line, f"engine.stage={stage}"])
    return done


def compare(output: Path, straight: Path, steps: int) -> dict[str, Any]:
    """Numbers of samples lost, repeated and exchanged, and the largest relative difference of a loss."""
    given, right = harness.samples(output), harness.samples(straight)
    counted = [position for step in given for position, _ in given[step]]
    ours, theirs = harness.losses(output), harness.losses(straight)
    worst = max(abs(ours[step][name] / theirs[step][name] - 1) for step in theirs for name in theirs[step])
    return {
        "samples lost": steps * GLOBAL_BATCH - len(set(counted)),
        "repeated": len(counted) - len(set(counted)),
        "of another step": sum(set(given.get(step, [])) != set(pairs) for step, pairs in right.items()),
        "largest relative difference of a loss": 0.0 if ours == theirs else float(f"{worst:.2g}"),
    }


def main() -> None:
    """Writes the record row by row; an interrupted one continues after its last row."""
    parser = record_parser(__doc__, "benchmarks/faults")
    parser.add_argument("--kills", type=int, default=40, help="in all")
    parser.add_argument("--steps", type=int, default=12, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, kills = earlier(args.out)
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    line = [*harness.SMALL, f"data.shards={corpus(work / 'corpus')}", f"train.max_steps={args.steps}", "train.save_every=2"]
    pairs = list(itertools.product(RANKS, STAGES))
    share = args.kills // (len(pairs) + 1)
    chance = random.Random(args.seed)
    try:
        for number, (ranks, stage) in enumerate([*pairs, (0, 0)]):  # 0: other ranks and another stage with every start
            name = {"ranks": ranks or "1, 2, 4", "stage": stage or "1, 2, 3"}
            if any(row.items() >= name.items() for row in rows):
                continue
            print(name, flush=True)
            straight, killed = work / f"straight-{ranks}-{stage}", work / f"killed-{ranks}-{stage}"
            # Micro-batches determine the hard negatives: all runs compared with one must use the same.
            own = [*line, f"train.micro_batch_size={GLOBAL_BATCH // ranks if ranks else 2}"]
            finish(straight, ranks or 1, [*own, f"engine.stage={stage or 1}"])
            drawn = ((chance.choice(RANKS), chance.choice(STAGES)) for _ in count())
            places = itertools.repeat((ranks, stage)) if ranks else drawn
            new = disturbed(killed, places, own, share if ranks else args.kills - len(kills), args.steps, args.seed + number)
            rows.append({**name, "steps": args.steps, **_summary(new), **compare(killed, straight, args.steps)})
            kills += [asdict(kill) for kill in new]
            write(args.out, rows, kills)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def earlier(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and kills of an interrupted record."""
    path = out.with_suffix(".json")
    content = json.loads(path.read_text()) if path.exists() else {"rows": [], "kills": []}
    return content["rows"], content["kills"]


def write(out: Path, rows: list[dict[str, Any]], kills: list[dict[str, Any]]) -> None:
    """Writes the record so far."""
    alone = [kill["others_left_after"] for kill in kills if kill["victims"] < kill["ranks"]]
    moments = [kill["moment"] for kill in kills]
    notes = [
        f"{len(kills)} kills: {moments.count('while saving')} while a checkpoint was written, {moments.count('start-up')} during "
        f"start-up, {moments.count('between steps')} between steps; a checkpoint every 2 steps. When one of several ranks was "
        f"killed ({len(alone)} times), the others ended after at most {max(alone, default=0.0):.1f} s. "
        "Losses of every step are compared with an undisturbed run on the same ranks and stage, where 0 means bitwise equal; "
        "the row that changes ranks and stage with every start is compared with one rank at stage 1.",
    ]
    write_record(out, "Killed runs end as if nothing had happened", notes, rows, ["torch", "deepspeed"], {"kills": kills})


def _summary(kills: list[harness.Kill]) -> dict[str, Any]:
    moments = [kill.moment for kill in kills]
    return {
        "kills": len(kills),
        "of one rank": sum(kill.victims == 1 for kill in kills),
        "while saving": moments.count("while saving"),
        "at start-up": moments.count("start-up"),
    }


if __name__ == "__main__":
    main()
