"""What a filter by the own model, groups of similar pairs, and small batches with wider weights bring, on scenes.

    OMP_NUM_THREADS=1 python -m benchmarks.pairs filter --jobs 2
    OMP_NUM_THREADS=1 python -m benchmarks.pairs groups --jobs 2

`filter`: 30% of the captions are another scene's. A model is pretrained on all pairs, scores them (`albef-data embed`), and the
lowest are dropped (`albef-data filter`); models pretrained on all pairs and on what is left are compared.
`groups`: the arms of `ARMS`, with the same number of samples. Each ends with fine-tuning on retrieval. Finished runs are
not repeated. `--part scores` ends after the scores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from albef_ds.data.shards.reader import ShardReader
from benchmarks.training import scored, train
from data_tools.config import DedupConfig, FilterConfig, PlanConfig
from data_tools.execution.executors import Parallel
from data_tools.features.embed import embed
from data_tools.features.group import write_groups
from data_tools.features.model import ModelChoice
from data_tools.files.shard_writer import ShardWriter
from data_tools.pipeline import ChainConfig, build
from data_tools.readers.source import SourceSpec
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes

NOISE = 0.3
DROPPED = 0.29
"""Share of the captions that the filter drops: 96% of the wrong ones, if it finds them."""
BATCH = 32
GROUP = 8
ONE = Parallel(workers=1)
Flags = NDArray[np.bool_]


def _batches(size: int) -> tuple[str, ...]:
    return f"train.micro_batch_size={size}", f"train.global_batch_size={size}"


@dataclass(frozen=True)
class Arm:
    """One arm of `groups`: a pretraining, and fine-tuning from it, grouped or not."""

    pretraining: str
    batch: int
    model: tuple[str, ...]
    """Settings of both trainings."""
    settings: tuple[str, ...]
    """Settings of pretraining."""
    grouped: bool = False


_SHALLOW, _DEEPER = (
    ("model.text.num_layers=1", "model.text.num_fusion_layers=3"),
    ("model.text.num_layers=2", "model.text.num_fusion_layers=2"),
)
_NEW = ("init.std=0.08", "task.alpha=0")
ARMS = {
    "before: text encoder of 1 layer, batches of 64": Arm("before", 64, _SHALLOW, ("init.std=0.02", "task.alpha=0.4")),
    "2 layers, batches of 32, groups of similar pairs": Arm("deeper", 32, _DEEPER, _NEW, grouped=True),
}
"""The arms of `groups`. Arms of one `pretraining` share it."""
FILTERED = (*_SHALLOW, "data.group_size=1", "init.std=0.08", "task.alpha=0.4")
"""Settings of the pretrainings of `filter`."""


@dataclass(frozen=True)
class Sitting:
    """The runs of all arms and seeds, in one folder with their scenes."""

    runs: Path
    steps: int
    """Steps of pretraining."""
    tuning: int
    """Steps of fine-tuning."""
    scale: float
    noise: float
    arms: tuple[str, ...]
    """Those of `groups`, by their pretraining."""
    itc_alone: bool = False
    """Pretrain ITC alone, whose steps cost a fraction; only ITC can score then."""

    @property
    def scenes(self) -> Path:
        """Folder of the scenes."""
        return self.runs / f"scenes-{self.noise:g}"

    @property
    def corpus(self) -> Path:
        """The pairs of pretraining."""
        return self.scenes / "pretrain" / "train"

    def write(self) -> None:
        """Writes the scenes unless they are there."""
        counts = SceneCounts().scaled(self.scale)
        write_scenes(self.scenes, SceneSettings(side=32, grouped=0.25, caption_noise=self.noise, counts=counts))

    def pretrain(self, name: str, seed: int, shards: Path, steps: int, *settings: str) -> Path:
        """Pretrains on `shards`; returns the run."""
        common = [f"data.vocab_file={self.scenes}/vocab.txt", f"train.seed={seed}", "train.epochs=1000", *_batches(BATCH)]
        length = [f"data.shards={shards}", f"train.max_steps={steps}", *(["task.align_epochs=1000"] * self.itc_alone)]
        return train("scenes_pretrain", self.runs / f"{name}-{seed}", [*common, *length, *settings])

    def tuning_shards(self) -> Path:
        """The pairs of fine-tuning as a corpus, one sample per image, which is written unless it is there."""
        shards, images = self.scenes / "retrieval_train", dict[str, dict[str, Any]]()
        if not (shards / "manifest.json").exists():
            for row in json.loads((self.scenes / "retrieval_train.json").read_text()):
                found = images.setdefault(row["image"], {"captions": [], "image_id": row["image_id"], "source": "scenes"})
                found["captions"].append(row["caption"])
            with ShardWriter(shards, samples_per_shard=4096, info={}) as writer:
                for image, meta in images.items():
                    writer.add((self.scenes / "images" / image).read_bytes(), "png", meta)
        return shards

    def groups_by(self, start: Path) -> list[str]:
        """Settings that fine-tune on groups of pairs that are similar for the model `start`."""
        shards = self.tuning_shards()
        if not (shards / f"{start.name}.order.json").exists():
            embed(shards, ModelChoice(str(start), device="cpu"), ONE, name=start.name)
            write_groups(shards, start.name, start.name, by="both")
        return [f"data.shards={shards}", f"data.group_order={start.name}", f"data.group_size={GROUP}"]

    def tuned(self, start: Path, seed: int, *settings: str, batch: int = BATCH, grouped: bool = False) -> dict[str, float]:
        """Scores of the retrieval fine-tuned from `start`: R@1 by ITM and by ITC, mean of both directions, in both galleries."""
        files = [
            *(self.groups_by(start) if grouped else [f"data.annotations={self.scenes}/retrieval_train.json"]),
            f"data.eval_annotations={self.scenes}/retrieval_val.json",
            f"data.test_annotations=hard={self.scenes}/retrieval_test.json,unseen={self.scenes}/retrieval_unseen.json",
            *(f"data.image_root={self.scenes}/images", f"data.vocab_file={self.scenes}/vocab.txt"),
            *(f"init.checkpoint={start}", f"train.seed={seed}", "train.epochs=1000", "task.alpha=0", *_batches(batch)),
            *(f"train.max_steps={self.tuning * BATCH // batch}", *settings),
        ]
        name = f"{start.name}-tuned{'-grouped' * grouped}"
        splits = scored(train("scenes_retrieval", start.with_name(name), files))["splits"]
        return {
            f"{split}, R@1 by {score}": statistics.fmean(splits[split][f"retrieval/{way}_r1{ending}"] for way in ("i2t", "t2i"))
            for split in ("hard", "unseen")
            for score, ending in (("ITM", "_itm"), ("ITC", ""))
        }

    def wrong(self) -> Flags:
        """Whether each sample of the corpus has the caption of another scene, by the id that says so."""
        reader, found = ShardReader(self.corpus), []
        for number, count in enumerate(reader.counts):
            for row in range(count):
                own, _, told = json.loads(reader.read_meta(number, row))["image_id"].partition("-told-")
                found.append(bool(told) and own.rpartition("-")[2] != told)
        return np.array(found)


def found_wrong(scores: NDArray[np.float32], wrong: Flags) -> dict[str, float]:
    """How well low scores find wrong pairs, in per cent: precision and recall of the lowest DROPPED and two other points."""
    order = np.argsort(scores, kind="stable")
    hits = np.cumsum(wrong[order])
    precision, recall = hits / np.arange(1, len(order) + 1), hits / wrong.sum()
    cut = round(DROPPED * len(order)) - 1
    enough = np.flatnonzero(precision >= 0.95)
    at_80 = precision[np.searchsorted(recall, 0.8)]
    return {
        "precision": 100 * float(precision[cut]),
        "recall": 100 * float(recall[cut]),
        "precision at 80% recall": 100 * float(at_80),
        "recall at 95% precision": 100 * float(recall[enough[-1]]) if len(enough) else 0.0,
    }


def run_filter(sitting: Sitting, seed: int, *, scores_only: bool) -> dict[str, dict[str, float]]:
    """Scores of one seed: what is dropped by either score, and retrieval of both arms."""
    torch.set_num_threads(1)
    first = sitting.pretrain("all", seed, sitting.corpus, sitting.steps, *FILTERED)
    name = f"embed-{seed}"
    stored = embed(sitting.corpus, ModelChoice(str(first), device="cpu"), ONE, name=name)
    assert stored is not None
    scores, wrong = stored.scores(), sitting.wrong()
    of_sample = np.cumsum(scores["captions"]) - scores["captions"]  # both captions say the same: the first is taken
    by = ("itc",) if sitting.itc_alone else ("itc", "itm")
    rows = {f"dropped by {score.upper()}": found_wrong(scores[score][of_sample], wrong) for score in by}
    if scores_only:
        return rows
    rows["trained on all pairs"] = sitting.tuned(first, seed, *_SHALLOW)
    left = sitting.runs / f"left-{seed}"
    if not (left / "manifest.json").exists():
        rules = FilterConfig(features=name, lowest_itc=DROPPED)
        chain = ChainConfig(PlanConfig(samples_per_shard=4096), filters=rules, dedup=DedupConfig(radius=-1, jaccard=0))
        source = SourceSpec.parse(f"all=shards:{sitting.corpus}")
        build(sitting.runs / f"work-{seed}", left, [source], chain, ONE)
    run = sitting.pretrain("left-run", seed, left, sitting.steps, *FILTERED)
    rows["trained on what is left"] = sitting.tuned(run, seed, *_SHALLOW)
    return rows


def run_groups(sitting: Sitting, seed: int, *, scores_only: bool) -> dict[str, dict[str, float]]:
    """Scores of one seed: retrieval of every arm, with the same number of samples."""
    torch.set_num_threads(1)
    rows = {}
    for name, arm in ((name, arm) for name, arm in ARMS.items() if arm.pretraining in sitting.arms):
        steps = sitting.steps * BATCH // arm.batch
        run = sitting.pretrain(arm.pretraining, seed, sitting.corpus, steps, *_batches(arm.batch), *arm.model, *arm.settings)
        rows[name] = sitting.tuned(run, seed, *arm.model, batch=arm.batch, grouped=arm.grouped)
    return rows


PARTS: dict[str, Callable[..., dict[str, dict[str, float]]]] = {"filter": run_filter, "groups": run_groups}


def table(found: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """One row per arm and measure: mean, and the value of every seed."""
    rows = []
    for arm, measures in found[0].items():
        for measure in measures:
            values = [seed[arm][measure] for seed in found]
            listed = ", ".join(f"{value:.1f}" for value in values)
            rows.append({"arm": arm, "measure": measure, "mean": f"{statistics.fmean(values):.1f}", "each seed": listed})
    return rows


def main() -> None:
    """Runs one part; `--record` writes the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/pairs"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=1200, help="of 32 pairs in pretraining")
    parser.add_argument("--tuning", type=int, default=300, help="steps of 32 pairs in fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, one thread each")
    parser.add_argument("--scale", type=float, default=1.0, help="how many scenes are made, 1 being the usual")
    parser.add_argument("--arms", nargs="+", default=["before", "deeper"], help="arms of `groups`, by their pretraining")
    parser.add_argument("--part", choices=("all", "scores"), default="all", help="of `filter`: scores alone")
    parser.add_argument("--itc-alone", action="store_true", help="pretrain ITC alone, whose steps cost a fraction")
    parser.add_argument("--record", action="store_true", help="write benchmarks/pairs_EXPERIMENT.json and .md")
    given = parser.parse_args()
    noise = NOISE if given.experiment == "filter" else 0.0
    sitting = Sitting(given.runs, given.steps, given.tuning, given.scale, noise, tuple(given.arms), given.itc_alone)
    sitting.write()
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(PARTS[given.experiment], sitting, seed, scores_only=given.part == "scores") for seed in range(given.seeds)
        ]
        found = [one.result() for one in waiting]
    rows = table(found)
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))
    if given.record:
        from benchmarks.record import write_record

        notes = [
            f"Scenes; {given.steps} steps of {BATCH} pairs and {given.tuning} of fine-tuning; {given.seeds} seeds, one sitting.",
            *(
                [f"{NOISE:.0%} of the captions are another scene's, and the lowest {DROPPED:.0%} by ITC are dropped."]
                if noise
                else []
            ),
            "R@1, mean of both directions. In the hard gallery unbound colours, shapes and the axis of the relation give 25, and",
            "objects with the axis, but not which of them is on which side, 50.",
            *(["ITC is pretrained alone (`task.align_epochs=1000`), so only ITC scores pairs."] * given.itc_alone),
        ]
        facts = {"steps": given.steps, "tuning": given.tuning, "seeds": given.seeds, "scale": given.scale, "values": found}
        out = Path(__file__).with_name(f"pairs_{given.experiment}")
        write_record(out, f"Pairs chosen by a model: {given.experiment}", notes, rows, ["torch"], facts)


if __name__ == "__main__":
    main()
