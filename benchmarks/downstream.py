"""Runs all five downstream tasks from one pretrained checkpoint on scenes, through the `deepspeed` launcher: `make downstream`.

Makes the scenes and the pretrained checkpoint if they are missing, fine-tunes and scores each task, and prints the scores beside
their ceilings. Finished trainings are not repeated.

    python -m benchmarks.downstream --length 0.5
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_ds.common.processes import free_port
from albef_ds.launch.local_ranks import visible_cores
from benchmarks.training import scored
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes

ROOT = Path(__file__).resolve().parent.parent
Launch = Callable[[list[str], int, Path], int]


@dataclass(frozen=True)
class Training:
    """One training: the training whose checkpoint it starts from, its optimizer steps, its settings over a scenes folder."""

    name: str
    start: str
    steps: int
    settings: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return f"scenes_{self.name}"

    def overrides(self, scenes: Path) -> list[str]:
        """The settings with the folder's path filled in."""
        always = ("data.vocab_file={s}/vocab.txt", "data.image_root={s}/images")
        return [setting.format(s=scenes) for setting in (*always, *self.settings)]


def _annotated(train: str, val: str, test: str) -> tuple[str, ...]:
    return (
        f"data.annotations={{s}}/{train}.json",
        f"data.eval_annotations={{s}}/{val}.json",
        f"data.test_annotations={','.join(f'{name}={{s}}/{name}.json' for name in test.split())}",
    )


_BOXES = ("data.refs={s}/refs.json", "data.instances={s}/instances.json", "data.detections={s}/dets.json")
STAGES = (
    Training("pretrain", "", 2400, ("data.shards={s}/pretrain/train", "data.eval_shards={s}/pretrain/val")),
    Training("retrieval", "pretrain", 800, _annotated("retrieval_train", "retrieval_val", "retrieval_test retrieval_unseen")),
    Training("vqa", "pretrain", 1200, (*_annotated("vqa_train", "vqa_val", "vqa_test"), "data.answer_list={s}/answer_list.json")),
    Training("nlvr_pretrain", "pretrain", 120, ("data.shards={s}/pretrain/train",)),
    Training("nlvr", "nlvr_pretrain", 800, _annotated("nlvr_train", "nlvr_dev", "nlvr_test")),
    Training("entailment", "pretrain", 600, _annotated("ve_train", "ve_dev", "ve_test")),
    Training("grounding", "pretrain", 600, (*_annotated("refcoco_train", "refcoco_val", "refcoco_test"), *_BOXES)),
)


def launch_deepspeed(arguments: list[str], ranks: int, log: Path) -> int:
    """Trains through the `deepspeed` launcher on this machine's CPU or GPUs, with output to `log`; returns the exit code."""
    launcher = Path(sys.executable).with_name("deepspeed")
    head = [str(launcher), "--num_gpus", str(ranks), "--master_port", str(free_port()), str(ROOT / "albef_ds" / "train.py")]
    threads = max(1, visible_cores() // ranks)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as output:
        return subprocess.run([*head, *arguments], env=environment, stdout=output, stderr=output, check=False).returncode


def run_stage(stage: Training, runs: Path, scenes: Path, ranks: int, extra: Sequence[str], launch: Launch) -> float:
    """Runs one training unless it is finished; returns its minutes of wall-clock time."""
    output, ended = runs / stage.name, runs / f"{stage.name}.done"
    if ended.exists():
        return float(ended.read_text())
    started = time.monotonic()
    arguments = ["--recipe", stage.recipe, "--output", str(output), *stage.overrides(scenes), *extra]
    if stage.start:
        arguments += ["--checkpoint", str(runs / stage.start)]
    if output.exists():
        arguments += ["--resume", "auto"]
    code = launch(arguments, ranks, runs / "logs" / f"{stage.name}.log")
    if code != 0:
        raise SystemExit(f"stage {stage.name} ended with exit code {code}: see {runs / 'logs' / f'{stage.name}.log'}")
    minutes = (time.monotonic() - started) / 60
    ended.write_text(f"{minutes:.2f}\n")
    return minutes


def rows(records: dict[str, dict[str, Any]], ceilings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per measure: the score, the floor it has to pass, and the ceilings of models that lack a capability."""

    def splits(task: str) -> dict[str, dict[str, float]]:
        return dict(records[task]["splits"])

    def row(task: str, measure: str, value: float, floor: float, known: dict[str, float]) -> dict[str, Any]:
        ladder = ", ".join(f"{name} {ceiling:.1f}" for name, ceiling in known.items())
        passed = "yes" if value >= floor else "no"
        return {"task": task, "measure": measure, "score": round(value, 2), "floor": floor, "passed": passed, "at most": ladder}

    hard, unseen = splits("retrieval")["retrieval_test"], splits("retrieval")["retrieval_unseen"]
    gallery, new = ceilings["retrieval"]["hard gallery"], ceilings["retrieval"]["unseen meanings"]
    grounding = splits("grounding")["refcoco_test"]
    vqa_floor, floor = round(ceilings["vqa"]["question alone"] + 20.0, 1), round(1.5 * ceilings["grounding"]["random"], 1)
    lowest = min(grounding["grounding/testA_accuracy"], grounding["grounding/testB_accuracy"])
    return [
        row("retrieval", "hard gallery, text to image R@1, ITM", hard["retrieval/t2i_r1_itm"], 30.0, gallery),
        row("retrieval", "hard gallery, image to text R@1, ITM", hard["retrieval/i2t_r1_itm"], 30.0, gallery),
        row("retrieval", "hard gallery, text to image R@1, ITC", hard["retrieval/t2i_r1"], 30.0, gallery),
        row("retrieval", "unseen meanings, text to image R@1, ITM", unseen["retrieval/t2i_r1_itm"], 30.0, new),
        row("vqa", "official accuracy", splits("vqa")["vqa_test"]["vqa/accuracy"], vqa_floor, ceilings["vqa"]),
        row("nlvr", "accuracy", splits("nlvr")["nlvr_test"]["classification/accuracy"], 60.0, ceilings["nlvr"]),
        row("entailment", "accuracy", splits("entailment")["ve_test"]["classification/accuracy"], 50.0, ceilings["entailment"]),
        row("grounding", "accuracy from proposals, the lower of testA and testB", lowest, floor, ceilings["grounding"]),
    ]


def downstream(
    runs: Path,
    scenes: Path,
    settings: SceneSettings,
    ranks: int,
    length: float,
    extra: Sequence[str] = (),
    launch: Launch = launch_deepspeed,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Runs everything; returns the table and the minutes of each training."""
    ceilings = write_scenes(scenes, settings)["ceilings"]
    spent, records = {}, {}
    for stage in STAGES:
        steps = max(1, round(stage.steps * length))
        # Two checkpoints, of which validation chooses one.
        budget = [f"train.max_steps={steps}", f"train.save_every={max(1, steps // 2)}", "train.epochs=1000"]
        spent[stage.name] = run_stage(stage, runs, scenes, ranks, [*budget, *extra], launch)
        print(f"{stage.name}: {spent[stage.name]:.1f} minutes", flush=True)
        if stage.name not in ("pretrain", "nlvr_pretrain"):
            records[stage.name] = scored(runs / stage.name)
    return rows(records, ceilings), spent


def main() -> None:
    """Runs and prints the scores; `--record` writes the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/downstream"), help="folder of the runs")
    parser.add_argument("--length", type=float, default=1.0, help="share of the usual number of steps of every stage")
    parser.add_argument("--ranks", type=int, default=max(1, min(2, visible_cores())))
    parser.add_argument("--scale", type=float, default=1.0, help="how many scenes are made, 1 being the usual")
    parser.add_argument("--grouped", type=float, default=0.25, help="share of pretraining groups with one pair's relations")
    parser.add_argument("--record", action="store_true", help="write benchmarks/downstream.json and .md")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="settings for every stage")
    arguments = parser.parse_intermixed_args()
    settings = SceneSettings(side=32, grouped=arguments.grouped, counts=SceneCounts().scaled(arguments.scale))
    scenes = arguments.runs / "scenes"
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    table, spent = downstream(arguments.runs, scenes, settings, arguments.ranks, arguments.length, arguments.overrides)
    for row in table:
        floor = f"floor {row['floor']:5.1f} {row['passed']:>4}"
        print(f"{row['task']:<11} {row['score']:6.2f}  {floor}  {row['measure']} (at most: {row['at most']})")
    if arguments.record:
        from benchmarks.record import write_record

        notes = [
            "Fine-tuned from one pretrained checkpoint through the `deepspeed` launcher on CPU; the test set is scored once,",
            "with the checkpoint chosen by validation. `at most`: the ceiling of a model that knows only this, counted by code.",
            f"Steps of 64: {', '.join(f'{stage.name} {max(1, round(stage.steps * arguments.length))}' for stage in STAGES)}.",
            f"Minutes on the wall clock by stage: {', '.join(f'{name} {value:.1f}' for name, value in spent.items())}.",
        ]
        out = Path(__file__).with_name("downstream")
        facts = {"minutes": spent, "ranks": arguments.ranks, "scale": arguments.scale, "length": arguments.length}
        write_record(out, "Downstream tasks on scenes", notes, table, ["torch", "deepspeed"], facts)


if __name__ == "__main__":
    main()
