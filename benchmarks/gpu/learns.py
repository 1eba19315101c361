"""Whether it learns at the GPU's speed: the demonstration's recipe, and the ablation on scenes."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_ds.cli.demo.command import cache_folder
from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.cli.demo.text_encoder import minilm_weights
from albef_ds.cli.main import main as command_line
from albef_ds.common.errors import MachineError
from albef_ds.common.run_files import METRICS_NAME
from benchmarks.ablation import NOISE, VARIANTS, Ablation, train_all
from benchmarks.gpu.rows import Context, Row
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes

RECALLS = ("retrieval/i2t_r10", "retrieval/t2i_r10")
CHANCE = 100 * 10 / 300
OVERHEAD = 30.0
"""Seconds of a demonstration's budget that are not training: start, and the evaluation."""


def demo(context: Context) -> Iterator[Row]:
    """Trains the demonstration's recipe on the emoji corpus; recall at 10 on its held-out concepts."""
    corpus = emoji_corpus(cache_folder())
    run, settings = Path(context.folder) / "demo", [f"data.shards={corpus / 'train'}", f"data.eval_shards={corpus / 'val'}"]
    try:
        settings.append(f"init.text_encoder={minilm_weights()}")
        yield Row("text encoder", "MiniLM, frozen")
    except MachineError:
        settings += ["init.text_encoder=scratch", "model.text.frozen=false", "compute.cached_texts=0"]
        yield Row("text encoder", "from scratch: the package of its weights is not installed")
    settings += [
        f"engine.device={context.device}",
        "engine.kind=local",
        "engine.momentum_storage=dense",
        "train.micro_batch_size=64",
    ]
    if context.model == "base":
        minutes = max(0.2, (context.seconds - OVERHEAD) / 60)
        settings += [f"train.max_minutes={minutes:.3f}", "data.num_workers=4", "engine.precision=auto"]
    else:
        settings += ["train.max_steps=3", "data.num_workers=0", "train.eval_samples=16", "train.micro_batch_size=8"]
        settings += ["train.global_batch_size=8"]
    code = command_line(["train", "--recipe", "demo_emoji", "--output", str(run), *settings])
    yield Row("exit code", float(code), at_most=0)
    lines = [json.loads(line) for line in (run / METRICS_NAME).read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    yield Row("steps", float(steps[-1]["step"]))
    yield Row("images/s of the run", statistics.median(line["images_per_second"] for line in steps))
    last = [line for line in lines if line["kind"] == "evaluation"][-1]
    for name in RECALLS:
        yield Row(f"{name} (chance {CHANCE:.1f})", last[name], "%", at_least=2 * CHANCE if context.real else None)


def ablation(context: Context) -> Iterator[Row]:
    """Every variant with three seeds: the mean retrieval score of each, and how many seeds gain by ITC."""
    base = context.model == "base"
    plan = Ablation(Path(context.folder), 400 if base else 1, context.device)
    counts = SceneCounts().scaled(0.3 if base else 0.01)
    write_scenes(plan.scenes, SceneSettings(side=32, grouped=0.25, caption_noise=NOISE, counts=counts))
    seeds = 3 if base else 1
    numbers = range(len(VARIANTS)) if base else [1]
    if base:
        train_all(plan, seeds, jobs=max(1, min(6, len(os.sched_getaffinity(0)) // 2)))
    scores = {number: [_score(plan.measure(number, seed)) for seed in range(seeds)] for number in numbers}
    for number, found in scores.items():
        yield Row(f"{VARIANTS[number].name}: retrieval, mean of {seeds} seeds", statistics.fmean(found), "%")
    if base:
        gains = sum(b > a for a, b in zip(scores[0], scores[1], strict=True))
        yield Row("seeds in which ITC raises retrieval", float(gains), at_least=seeds if context.real else None)


def _score(measured: dict[str, Any]) -> float:
    """The mean of a run's four retrieval scores."""
    return statistics.fmean(value for name, value in measured.items() if ", to " in name)
