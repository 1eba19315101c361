"""Writes the tables of docs/scaling.md: the settings that `albef-ds plan --throughput` recommends, and what others cost.

python -m docs.tools.scaling
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.hardware import PRESETS
from albef_ds.launch.planning.parameter_counts import ModelCounts, count
from albef_ds.launch.planning.plan import GB
from albef_ds.launch.planning.throughput import Forecast, alone, efficiency, forecast
from albef_ds.launch.planning.throughput_search import Option, recommend_speed
from albef_ds.launch.planning.throughput_table import differences
from docs.tools.generated import ROOT, rewrite

PAGE = ROOT / "docs" / "scaling.md"
HARDWARE = PRESETS["h100"]
MODELS = {"base": "pretrain_14m", "large": "pretrain_large", "huge": "pretrain_huge"}
BATCHES = {8: 512, 64: 1024, 512: 8192, 1024: 16384}
"""GPUs -> global batch: the paper's, then 16 pairs on each GPU."""

_BUCKETS = {"overlap_comm": True, "reduce_bucket_size": 25_000_000}
_ZERO3 = {
    "overlap_comm": True,
    "reduce_bucket_size": 50_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 0,
}
ALTERNATIVES: dict[str, tuple[int, dict[str, str], dict[str, Any]]] = {
    "stage 0, momentum group `node`": (0, {"momentum_group": "node"}, {}),
    "stage 1, `momentum_storage=dense`": (1, {"momentum_storage": "dense"}, _BUCKETS),
    "stage 1, momentum group `node`": (1, {"momentum_group": "node"}, _BUCKETS),
    "stage 1, momentum group `world`": (1, {"momentum_group": "world"}, _BUCKETS),
    "stage 3, momentum group `node`": (3, {"momentum_group": "node"}, _ZERO3),
    "the same, DeepSpeed's persistence threshold": (
        3,
        {"momentum_group": "node"},
        {**_ZERO3, "stage3_param_persistence_threshold": 100_000},
    ),
}
"""Settings of ALBEF base whose steps are compared: stage, engine settings, ZeRO knobs."""


def configuration(model: str, gpus: int) -> RunConfig:
    """Returns a model's recipe at the global batch of so many GPUs."""
    config, batch = get_recipe(MODELS[model]), BATCHES[gpus]
    return replace(config, train=replace(config.train, global_batch_size=batch, micro_batch_size=batch // gpus))


def recommended_row(model: str, gpus: int, counts: ModelCounts) -> str:
    """Returns the row of one model on so many GPUs."""
    found = recommend_speed(configuration(model, gpus), counts, HARDWARE, gpus, HARDWARE.memory)
    best, other = found.best.forecast, found.runner_up
    beside = f"{_setting(other)}: {differences(other.forecast, best, 2).replace('waiting for ', '')}" if other else ""
    numbers = (
        f"{1e3 * best.step:.1f} | {best.images_per_second:,.0f} | {found.best.efficiency:.0%} | {found.best.num_bytes / GB:.0f}"
    )
    return f"| {model} | {gpus:,} | {BATCHES[gpus]:,} | {_setting(found.best)} | {numbers} | {beside} |"


def _setting(option: Option) -> str:
    config, knobs = option.forecast.config, option.knobs or {}
    train = config.train
    accumulation = train.global_batch_size // train.micro_batch_size // option.forecast.world_size
    parts = [f"stage {config.engine.stage}", f"group {config.engine.momentum_group}"]
    if knobs:
        parts.append(f"buckets of {knobs['reduce_bucket_size'] / 1e6:.0f}M")
    if knobs.get("zero_hpz_partition_size", 1) > 1:
        parts.append("hpZ")
    if config.compute.checkpoint_visual:
        parts.append("recomputation")
    return ", ".join([*parts, f"micro-batch {train.micro_batch_size} x {accumulation}"])


def recommendations() -> str:
    """Returns the table of the recommended settings."""
    head = "| model | GPUs | global batch | setting | step, ms | images/s | efficiency | GB per GPU | runner-up |"
    rows = [head, "|---|---:|---:|---|---:|---:|---:|---:|---|"]
    for model, recipe in MODELS.items():
        counts = count(get_recipe(recipe))
        rows += [recommended_row(model, gpus, counts) for gpus in BATCHES]
    return "\n".join(rows)


def alternative(name: str, gpus: int, counts: ModelCounts) -> tuple[Forecast, float]:
    """Returns the step of one of `ALTERNATIVES` on so many GPUs, and its efficiency."""
    stage, engine, knobs = ALTERNATIVES[name]
    config = configuration("base", gpus)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "zero.json"
        file.write_text(json.dumps({"zero_optimization": knobs}))
        changed: dict[str, Any] = {**engine, "kind": "zero", "stage": stage, "ds_config": str(file) if knobs else ""}
        one = forecast(replace(config, engine=replace(config.engine, **changed)), counts, HARDWARE, gpus)
        return one, efficiency(one, alone(one, counts))


def alternatives() -> str:
    """Returns the table of the steps of ALBEF base in other settings."""
    sizes = [gpus for gpus in BATCHES if gpus > 8]
    rows = ["| step of ALBEF base, ms | " + " | ".join(f"{gpus:,} GPUs" for gpus in sizes) + " |", "|---|" + "---:|" * len(sizes)]
    counts = count(get_recipe(MODELS["base"]))
    for name in ALTERNATIVES:
        found = [alternative(name, gpus, counts) for gpus in sizes]
        rows.append(f"| {name} | " + " | ".join(f"{1e3 * one.step:.1f} ({share:.0%})" for one, share in found) + " |")
    return "\n".join(rows)


def main() -> None:
    """Writes the tables."""
    rewrite(PAGE, "recommended", recommendations())
    rewrite(PAGE, "alternatives", alternatives())


if __name__ == "__main__":
    main()
