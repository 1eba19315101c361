"""Searches settings that fit into memory: ZeRO stages and activation checkpointing first, then smaller micro-batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from albef_ds.common.errors import ConfigError, UserError
from albef_ds.config.describe import value_text
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.parameter_counts import ModelCounts, count
from albef_ds.launch.planning.plan import GB, NODE_SIZE, Plan, make_plan, smallest_micro_batch, with_micro_batch

PRESETS: dict[str, tuple[int, int]] = {"1x24": (1, 24), "4x24": (4, 24), "8x40": (8, 40), "8x80": (8, 80), "32x80": (32, 80)}
"""Name -> (GPUs, GB of each)."""

CHECKPOINTS = ("compute.checkpoint_visual", "compute.checkpoint_text", "compute.checkpoint_multimodal")

SETTINGS: tuple[tuple[int, bool], ...] = ((0, False), (1, False), (2, False), (1, True), (2, True), (3, False), (3, True))
"""(ZeRO stage, recompute activations), simplest and fastest first."""


@dataclass(frozen=True)
class Choice:
    """A plan that fits, and the overrides of the given configuration that lead to it."""

    plan: Plan
    overrides: tuple[str, ...]


def _candidates(config: RunConfig, world_size: int, fixed: Collection[str]) -> Iterator[RunConfig]:
    """Yields configurations in order of preference. Smaller micro-batches come last because they weaken hard negatives."""
    smallest = smallest_micro_batch(config)
    micro_batch = max(smallest, min(config.train.micro_batch_size, config.train.global_batch_size // world_size))
    while micro_batch >= smallest:
        for stage, recompute in SETTINGS:
            engine, compute = config.engine, config.compute
            if "engine.stage" not in fixed:
                engine = replace(engine, kind="zero", stage=stage)
            elif stage != engine.stage:
                continue
            switches: dict[str, Any] = {path.split(".")[1]: recompute for path in CHECKPOINTS if path not in fixed}
            try:
                candidate = replace(config, engine=engine, compute=replace(compute, **switches))
                yield with_micro_batch(candidate, micro_batch, world_size)
            except UserError:
                continue  # a dense momentum copy excludes stage 3
        if "train.micro_batch_size" in fixed:
            return
        micro_batch //= 2


def recommend(
    config: RunConfig,
    world_size: int,
    memory: int,
    fixed: Collection[str] = (),
    counts: ModelCounts | None = None,
    node_size: int = NODE_SIZE,
) -> Choice:
    """Returns the first setting whose plan needs at most `memory` bytes on each of `world_size` GPUs.

    The micro-batch of `config` is the largest that is tried; settings with a dotted path in `fixed` are kept. `counts` avoids
    counting the model again.

    Raises:
        ConfigError: nothing fits; the text has the smallest need and the difference.
    """
    counts = count(config) if counts is None else counts
    least: Plan | None = None
    for candidate in _candidates(config, world_size, fixed):
        try:
            plan = make_plan(candidate, world_size, counts, node_size)
        except UserError:
            if "engine.stage" in fixed:
                raise
            continue  # the ZeRO file has knobs of another stage
        if plan.total <= memory:
            return Choice(plan, overrides_between(config, candidate))
        least = plan if least is None or plan.total < least.total else least
    if least is None:
        raise ConfigError(f"engine.ds_config {config.engine.ds_config} does not fit any stage: remove it")
    largest = max(least.lines, key=lambda line: line.num_bytes)
    raise ConfigError(
        f"nothing fits {world_size} x {memory / GB:.4g} GB: the smallest setting ({', '.join(describe(least.config))}) needs "
        f"{least.total / GB:.1f} GB, {(least.total - memory) / GB:.1f} GB more; its largest part is {largest.name} with "
        f"{largest.num_bytes / GB:.1f} GB: use more or larger GPUs, a smaller reduce_bucket_size in engine.ds_config, "
        "or a smaller model"
    )


def describe(config: RunConfig) -> list[str]:
    """Returns the settings that `recommend` chooses, as overrides."""
    return [f"{path}={value_text(attrgetter(path)(config))}" for path in _CHOSEN]


_CHOSEN = ("engine.kind", "engine.stage", *CHECKPOINTS, "train.micro_batch_size", "train.global_batch_size")


def overrides_between(before: RunConfig, after: RunConfig) -> tuple[str, ...]:
    """Returns the chosen settings in which two configurations differ, as `section.field=value`."""
    pairs = zip(describe(before), describe(after), strict=True)
    return tuple(new for old, new in pairs if new != old)
