"""Learning at large batches: pretraining on scenes with the same number of samples in batches of 64 to 1,024.

    OMP_NUM_THREADS=1 python -m benchmarks.large_batch --jobs 2 --out benchmarks/large_batch

Arms: the learning rate of batch 64 (`constant`), grown with the root of the batch (`root`), and with the batch (`linear`). The
momentum model's decay is raised to the power of batch / 64, so that it forgets as fast per sample. Warm-up is in samples. Every
run is fine-tuned on retrieval in the same way, in batches of 64. Finished runs are not repeated.
"""

from __future__ import annotations

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import Sitting
from benchmarks.record import record_parser, write_record

BASE = 64
RATE, DECAY = 1e-3, 0.99
POWERS = {"constant": 0.0, "root": 0.5, "linear": 1.0}
Arm = tuple[int, str]
ARMS: tuple[Arm, ...] = ((64, "constant"), (256, "constant"), (256, "root"), (1024, "constant"), (1024, "root"), (1024, "linear"))


def run(sitting: Sitting, seed: int, arm: Arm) -> dict[str, float]:
    """Scores of one arm and seed: R@1 in both galleries after the same fine-tuning."""
    torch.set_num_threads(1)
    batch, rule = arm
    times = batch // BASE
    settings = [f"train.global_batch_size={batch}", f"train.micro_batch_size={batch}"]
    settings += [f"optim.learning_rate={RATE * times ** POWERS[rule]:g}", f"task.momentum={max(0.5, DECAY**times):.4f}"]
    first = sitting.pretrain(f"batch{batch}-{rule}", seed, sitting.corpus, max(1, sitting.steps // times), *settings)
    return sitting.tuned(first, seed)


def main() -> None:
    """Runs all arms and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/large_batch"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=1200, help="of 64 samples; fine-tuning takes a quarter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--scale", type=float, default=1.0, help="how many scenes are made, 1 being the usual")
    given = parser.parse_args()
    sitting = Sitting(given.runs, given.steps, given.scale, 0.0)
    sitting.write()
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {arm: [pool.submit(run, sitting, seed, arm) for seed in range(given.seeds)] for arm in ARMS}
        found = {arm: [one.result() for one in seeds] for arm, seeds in waiting.items()}
    rows: list[dict[str, Any]] = []
    for (batch, rule), seeds in found.items():
        row: dict[str, Any] = {"batch": batch, "steps": max(1, given.steps * BASE // batch), "learning rate": rule}
        for measure in seeds[0]:
            values = [seed[measure] for seed in seeds]
            row[measure] = f"{statistics.fmean(values):.1f}"
            row[f"{measure}, each seed"] = ", ".join(f"{value:.1f}" for value in values)
        rows.append(row)
    notes = [
        f"Scenes, {given.steps * BASE:,} samples in every arm, {given.seeds} seeds, {given.steps // 4} steps of fine-tuning.",
        "R@1 by ITM, mean of both directions; 25 in the hard gallery needs no relation.",
    ]
    write_record(given.out, "Learning at large batches", notes, rows, ["torch"], {"steps": given.steps, "seeds": given.seeds})


if __name__ == "__main__":
    main()
