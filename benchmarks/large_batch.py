"""Learning at large batches: pretraining on scenes with the same number of samples in batches of 64, 256 and 1,024.

    OMP_NUM_THREADS=1 python -m benchmarks.large_batch --out benchmarks/large_batch

The learning rate of batch 64 is kept (`constant`), grown with the root of the batch (`root`), or with the batch (`linear`). The
momentum model's decay is raised to the power of batch / 64, so that it forgets as fast per sample, except where an arm says
otherwise. Warm-up, cosine and alpha's ramp are in samples. Arms with fewer samples show what the number of steps alone does. The
first seed of every arm runs before the second; finished runs are not repeated, and `--finished` writes the record of these alone.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint.formats.read import build_for_inference, read_model
from albef_ds.common.run_files import RESULTS_NAME
from albef_ds.config.overrides import parse_overrides
from albef_ds.data.stream.open import open_stream
from albef_ds.evaluation.score_run import Request, score
from albef_ds.models.momentum import DenseMomentum
from albef_ds.tasks.registry import kind_of
from benchmarks.pairs import Sitting
from benchmarks.record import record_parser, write_record

BASE = 64
RATE, DECAY = 1e-3, 0.99
POWERS = {"constant": 0.0, "root": 0.5, "linear": 1.0}


@dataclass(frozen=True)
class Arm:
    """Settings of one row."""

    batch: int
    rule: str = "constant"
    also: str = ""
    """What else differs, in words."""
    settings: tuple[str, ...] = ()
    share: float = 1.0
    """Of the samples of the other arms."""
    seeds: int = 2
    """At most so many."""

    @property
    def name(self) -> str:
        """Folder of its runs, without the seed."""
        return "-".join(filter(None, (f"batch{self.batch}", self.rule, self.also.replace(" ", "_"))))

    def steps(self, samples: int) -> int:
        """Optimizer steps with its share of `samples`."""
        return max(1, round(samples * self.share) // self.batch)

    def overrides(self) -> list[str]:
        """Its settings."""
        times = self.batch // BASE
        sizes = [f"train.global_batch_size={self.batch}", f"train.micro_batch_size={self.batch}"]
        scaled = [f"optim.learning_rate={RATE * times ** POWERS[self.rule]:g}", f"task.momentum={DECAY**times:.4f}"]
        return [*sizes, *scaled, *self.settings]


ARMS: tuple[Arm, ...] = (
    Arm(64),
    Arm(256),
    Arm(256, "root"),
    Arm(256, "linear", seeds=1),
    Arm(1024),
    Arm(1024, "root"),
    Arm(64, also="steps of batch 256", share=1 / 4),
    Arm(64, also="steps of batch 1024", share=1 / 16),
    Arm(64, also="steps of batch 256, temperature 0.03", settings=("task.temperature=0.03",), share=1 / 4),
    Arm(64, also="steps of batch 1024, temperature 0.03", settings=("task.temperature=0.03",), share=1 / 16),
    Arm(256, "root", "temperature 0.03", ("task.temperature=0.03",)),
    Arm(256, "root", "beta1 0.6, beta2 0.996", ("optim.beta1=0.6", "optim.beta2=0.996")),
    Arm(256, "root", "momentum 0.99", ("task.momentum=0.99",), seeds=1),
    Arm(64, also="queue 960", settings=("task.queue_size=960",), seeds=1),
    Arm(256, "root", "queue 768", ("task.queue_size=768",), seeds=1),
)


def validation_losses(sitting: Sitting, run: Path) -> dict[str, float]:
    """Mean ITC, ITM and MLM of the student on pairs of unseen meanings, in batches of 64, its own features as candidates."""
    found = read_model(run)
    shards = sitting.scenes / "pretrain" / "val"
    given = [f"data.shards={shards}", "train.micro_batch_size=64", "train.global_batch_size=64", "task.queue_size=0"]
    config = parse_overrides(found.model.config, given)
    task: Any = build_for_inference(found.model.select("student", queues=False), torch.device("cpu"), torch.float32)
    task.attach_momentum(DenseMomentum(task.base, DECAY))
    stream = iter(open_stream(config, kind_of(config.task).samples))
    sums = {"itc": 0.0, "itm": 0.0, "mlm": 0.0}
    torch.manual_seed(0)
    for _ in range(3):
        losses, _metrics = task(next(stream).to(torch.device("cpu")), alpha=0.0)
        sums = {name: value + float(losses[name]) / 3 for name, value in sums.items()}
    return {f"{name.upper()} loss": value for name, value in sums.items()}


def scores(sitting: Sitting, run: Path) -> dict[str, float]:
    """Recall without fine-tuning, mean of both directions: of the unseen meanings by ITC and ITM, of the hard gallery by ITM."""
    if not (run / RESULTS_NAME).exists():
        splits = {"plain": f"{sitting.scenes}/retrieval_unseen.json", "hard": f"{sitting.scenes}/retrieval_test.json"}
        request = Request(run, (f"data.image_root={sitting.scenes}/images",), splits=splits)
        score(request, run, torch.device("cpu"), lambda line: None)
    splits = json.loads((run / RESULTS_NAME).read_text())["splits"]

    def recall(split: str, measure: str) -> float:
        return statistics.fmean(splits[split][f"retrieval/{way}_{measure}"] for way in ("i2t", "t2i"))

    names = {"R@1 ITC": "r1", "R@10 ITC": "r10", "R@1 ITM": "r1_itm", "R@10 ITM": "r10_itm"}
    return {**{name: recall("plain", measure) for name, measure in names.items()}, "hard R@10 ITM": recall("hard", "r10_itm")}


def run(sitting: Sitting, seed: int, arm: Arm, samples: int) -> dict[str, float]:
    """Measures of one arm and seed."""
    torch.set_num_threads(1)
    quiet = ("train.trackers=", "train.eval_pictures=0")
    output = sitting.pretrain(arm.name, seed, sitting.corpus, arm.steps(samples), *arm.overrides(), *quiet)
    return {**validation_losses(sitting, output), **scores(sitting, output)}


def rows_of(found: dict[Arm, list[dict[str, float]]], samples: int) -> Iterator[dict[str, Any]]:
    """One row per arm; a cell shows the value of every seed."""
    for arm, seeds in found.items():
        row: dict[str, Any] = {"batch": arm.batch, "learning rate": arm.rule, "also": arm.also, "steps": arm.steps(samples)}
        for measure in seeds[0]:
            digits = 3 if "loss" in measure else 1
            row[measure] = ", ".join(f"{seed[measure]:.{digits}f}" for seed in seeds)
        yield row


def main() -> None:
    """Runs all arms and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/large_batch"), help="folder of the runs")
    parser.add_argument("--samples", type=int, default=30_720, help="of every arm but those with the steps of another batch")
    parser.add_argument("--seeds", type=int, default=2, help="at most so many")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--finished", action="store_true", help="write the record of the runs that have ended, and start none")
    parser.add_argument("--scale", type=float, default=1.0, help="how many scenes are made, 1 being the usual")
    given = parser.parse_args()
    sitting = Sitting(given.runs, given.samples // BASE, given.scale, 0.0)
    sitting.write()
    waiting: dict[Arm, list[Future[dict[str, float]]]] = {arm: [] for arm in ARMS}
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        for seed in range(given.seeds):
            for arm in ARMS:
                ended = (sitting.runs / f"{arm.name}-{seed}" / "ended").exists()
                if seed < arm.seeds and (ended or not given.finished):
                    waiting[arm].append(pool.submit(run, sitting, seed, arm, given.samples))
        found = {arm: [one.result() for one in seeds] for arm, seeds in waiting.items() if seeds}
    rows = list(rows_of(found, given.samples))
    notes = [
        f"Scenes, {given.samples:,} samples in every arm but those with the steps of a larger batch; one value per seed.",
        "Losses: on unseen meanings, in batches of 64. Recall: of 221 unseen meanings, and of the hard gallery, mean of both",
        "directions, without fine-tuning; chance is R@1 0.5 and R@10 4.5, in the hard gallery 1.4. Warm-up: 6,400 samples.",
    ]
    if given.finished:
        notes.append("Arms and seeds of the program that are missing here had not run.")
    write_record(given.out, "Learning at large batches", notes, rows, ["torch"], {"samples": given.samples, "seeds": given.seeds})


if __name__ == "__main__":
    main()
