"""Kills training runs at random moments, again and again, and compares how they end with runs that were left alone.

    python -m benchmarks.faults --kills 40 --out benchmarks/faults

For ZeRO stages 1 to 3 on 1, 2 and 4 ranks, and for one run that changes both with every start: SIGKILL to one rank or to
all, while starting, between steps and while a checkpoint is written; `--resume auto` until the last step. Samples are
compared by position and key for every step of every attempt, losses with an undisturbed run of the same stage and ranks.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data_tools_record import write_record
from data_tools.shard_writer import ShardWriter
from tests.data.conftest import sample
from tests.faults import harness

STAGES, RANKS = (1, 2, 3), (1, 2, 4)
GLOBAL_BATCH = 8
TIME_LIMIT = 600.0


def corpus(folder: Path) -> Path:
    """40 pairs: a run crosses epochs."""
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for number in range(40):
            writer.add(*sample(number))
    return folder


def finish(output: Path, ranks: int, line: list[str]) -> float:
    """Run to the end; seconds."""
    started = time.perf_counter()
    job = harness.start(output, ranks, line)
    codes = job.join(TIME_LIMIT)
    if codes != [0] * ranks:
        raise SystemExit(f"a run that nobody disturbed ended with {codes}:\n{job.errors()}")
    return time.perf_counter() - started


def disturbed(
    output: Path, places: Iterator[tuple[int, int]], line: list[str], kills: int, steps: int, seed: int
) -> list[harness.Kill]:
    """A run that is killed `kills` times; `places` are ranks and stage of each attempt."""
    chance, done = random.Random(seed), list[harness.Kill]()
    while len(done) < kills:
        ranks, stage = next(places)
        kill = harness.disturb(harness.start(output, ranks, [*line, f"engine.stage={stage}"]), chance, steps, TIME_LIMIT)
        if kill is None:  # over before its time came
            break
        done.append(kill)
        print(f"  {kill}", flush=True)
    ranks, stage = next(places)
    finish(output, ranks, [*line, f"engine.stage={stage}"])
    return done


def compare(output: Path, straight: Path, steps: int) -> dict[str, Any]:
    """Samples lost, repeated and exchanged, and the largest relative difference of a loss."""
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
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="in all")
    parser.add_argument("--steps", type=int, default=24, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/faults"))
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    line = [*harness.SMALL, f"data.shards={corpus(work / 'corpus')}", f"train.max_steps={args.steps}", "train.save_every=2"]
    pairs = list(itertools.product(RANKS, STAGES))
    share = args.kills // (len(pairs) + 1)
    rows, all_kills = [], list[harness.Kill]()
    try:
        for number, (ranks, stage) in enumerate(pairs):
            print(f"{ranks} ranks, stage {stage}", flush=True)
            straight, killed = work / f"straight-{ranks}-{stage}", work / f"killed-{ranks}-{stage}"
            finish(straight, ranks, [*line, f"engine.stage={stage}"])
            kills = disturbed(killed, itertools.repeat((ranks, stage)), line, share, args.steps, args.seed + number)
            rows.append({"ranks": ranks, "stage": stage, **_summary(kills), **compare(killed, straight, args.steps)})
            all_kills += kills
            shutil.rmtree(killed)
            write(args.out, rows, all_kills, args.steps)
        chance = random.Random(args.seed)
        places = ((chance.choice(RANKS), chance.choice(STAGES)) for _ in itertools.count())
        print("mixed", flush=True)
        kills = disturbed(work / "mixed", places, line, args.kills - len(all_kills), args.steps, args.seed + 99)
        rows.append(
            {"ranks": "1-4", "stage": "1-3", **_summary(kills), **compare(work / "mixed", work / "straight-2-2", args.steps)}
        )
        all_kills += kills
        write(args.out, rows, all_kills, args.steps)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write(out: Path, rows: list[dict[str, Any]], all_kills: list[harness.Kill], steps: int) -> None:
    """The record so far."""
    alone = [kill.others_left_after for kill in all_kills if kill.victims < kill.ranks]
    notes = [
        f"{len(all_kills)} kills in runs of {steps} steps with a checkpoint every 2; "
        f"{sum(k.moment == 'while saving' for k in all_kills)} while a checkpoint was written, "
        f"{sum(k.moment == 'start-up' for k in all_kills)} during start-up. "
        f"Where one of several ranks was killed ({len(alone)} times), the others had left after at most "
        f"{max(alone, default=0.0):.1f} s (train.silence_limit=6). Losses are compared with an undisturbed run on the same "
        "ranks and stage: 0 means equal to the last bit; the last row changes ranks and stage with every start and is compared "
        "with 2 ranks at stage 2.",
    ]
    title = "Killed runs end as if nothing had happened"
    write_record(out, title, notes, rows, ["torch", "deepspeed"], {"kills": len(all_kills)})


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
