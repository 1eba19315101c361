"""Searches the settings with the highest predicted rate that fit into memory: stage, momentum group, ZeRO knobs, micro-batch.

The global batch is kept, because it decides what a run learns. `throughput.py` predicts, `plan.py` counts the memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError, UserError
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.hardware import Hardware
from albef_ds.launch.planning.parameter_counts import ModelCounts
from albef_ds.launch.planning.plan import GB, make_plan, smallest_micro_batch
from albef_ds.launch.planning.settings_search import CHECKPOINTS
from albef_ds.launch.planning.throughput import Forecast, alone, efficiency, forecast

Knobs = dict[str, Any]
"""The content of `zero_optimization` in a ZeRO file."""

_BUCKETS = (25_000_000, 50_000_000, 100_000_000, 200_000_000)
ZERO_3_HANDICAP = 0.1
"""Share by which ZeRO-3 has to be faster than other stages to be preferred where they fit. With its hooks around every module the
host's work for a step is nearly three times as long (docs/scaling.md), which the prediction leaves out."""
_MICRO_BATCHES = 5
"""Micro-batches that are tried, from the largest that the global batch allows."""


@dataclass(frozen=True)
class Option:
    """One setting with its predicted step and its memory."""

    forecast: Forecast
    num_bytes: int
    """Bytes of one GPU."""
    knobs: Knobs | None
    """What `engine.ds_config` has to contain; None: the file that was given, or none."""
    efficiency: float
    """Images per second and GPU, divided by those of a single GPU."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """The setting, as `section.field=value`; `zero.json` is a file with `knobs`."""
        config = self.forecast.config
        engine, train = config.engine, config.train
        found = [f"engine.stage={engine.stage}", f"engine.momentum_group={engine.momentum_group}"]
        if engine.momentum_storage == "dense":
            found = found[:1]
        if self.knobs is None and engine.ds_config:
            found.append(f"engine.ds_config={engine.ds_config}")
        elif self.knobs:
            found.append("engine.ds_config=zero.json")
        if _recomputes(config):
            found += [f"{path}=true" for path in CHECKPOINTS]
        return (*found, f"train.micro_batch_size={train.micro_batch_size}", f"train.global_batch_size={train.global_batch_size}")


@dataclass(frozen=True)
class Recommendation:
    """The fastest setting that fits, the next one of another kind, and the fastest one that does not fit, if it is faster."""

    best: Option
    runner_up: Option | None
    too_large: Option | None
    memory: float


def recommend_speed(
    config: RunConfig,
    counts: ModelCounts,
    hardware: Hardware,
    world_size: int,
    memory: float,
    fixed: Collection[str] = (),
) -> Recommendation:
    """Returns the setting of `config` with the highest predicted rate among those that need at most `memory` bytes on a GPU.

    Settings with a dotted path in `fixed` are kept, and the global batch in any case.

    Raises:
        ConfigError: nothing fits.
    """
    with tempfile.TemporaryDirectory() as folder:
        forecasts = []
        for candidate, knobs in _candidates(config, counts, world_size, hardware.node_size(world_size), fixed, Path(folder)):
            with contextlib.suppress(UserError):  # a dense momentum copy excludes stage 3; a given file may be of another stage
                forecasts.append((forecast(candidate, counts, hardware, world_size), knobs))
        forecasts.sort(key=lambda one: _order(*one))
        # Memory takes longer to count than a step to predict, so it is counted from the fastest on.
        best: Option | None = None
        too_large: Option | None = None
        settled: set[tuple[Any, ...]] = set()
        least = math.inf
        for planned, knobs in forecasts:
            kind = _kind(planned.config)
            if kind in settled:
                continue
            num_bytes = make_plan(planned.config, world_size, counts, hardware.per_node).total
            shares = efficiency(planned, alone(planned, counts))
            option, least = Option(planned, num_bytes, knobs, shares), min(least, num_bytes)
            if num_bytes > memory:
                too_large = too_large if best or too_large else option
            elif best is not None and _speed(planned) > _speed(best.forecast):
                return Recommendation(best, option, too_large, memory)
            elif best is None:
                best = option
                settled.add(kind)
                too_large = too_large if too_large and _speed(too_large.forecast) < _speed(planned) else None
            else:
                settled.add(kind)  # as fast as the best: no runner-up
    if best is not None:
        return Recommendation(best, None, too_large, memory)
    raise ConfigError(
        f"no setting of {world_size} GPUs with {memory / GB:.4g} GB fits a global batch of {config.train.global_batch_size}: the "
        f"smallest needs {least / GB:.1f} GB: use more GPUs, or a smaller train.global_batch_size"
    )


def _kind(config: RunConfig) -> tuple[Any, ...]:
    """Returns what tells two settings apart besides ZeRO knobs and micro-batch."""
    return config.engine.stage, config.engine.momentum_group, _recomputes(config)


def _recomputes(config: RunConfig) -> bool:
    return any(attrgetter(path)(config) for path in CHECKPOINTS)


def _speed(planned: Forecast) -> float:
    """Returns a number that is smaller for a higher rate; rates closer than a tenth of a thousandth have the same."""
    handicap = ZERO_3_HANDICAP if planned.config.engine.stage == 3 else 0.0
    return -round(math.log(planned.images_per_second * (1.0 - handicap)), 4)


def _order(planned: Forecast, knobs: Knobs | None) -> tuple[float, ...]:
    """Returns what is ascending from the best on: rate, then the simpler setting."""
    config, knobs = planned.config, knobs or {}
    sizes = (knobs.get("reduce_bucket_size", 0), knobs.get("zero_hpz_partition_size", 1))
    # A larger micro-batch has more negatives, and keeps a GPU busier than the model knows.
    return (_speed(planned), -config.train.micro_batch_size, config.engine.stage, _recomputes(config), *sizes)


def _candidates(
    config: RunConfig, counts: ModelCounts, world_size: int, node_size: int, fixed: Collection[str], folder: Path
) -> Iterator[tuple[RunConfig, Knobs | None]]:
    """Yields configurations with their ZeRO knobs, which a file in `folder` has."""
    engine = config.engine
    stages = (engine.stage,) if "engine.stage" in fixed or engine.kind == "local" else (0, 1, 2, 3)
    groups = ["node", "world"] if 1 < node_size < world_size else ["node"]
    if "engine.momentum_group" in fixed or engine.momentum_storage == "dense":
        groups = [engine.momentum_group]
    for stage in stages:
        for number, knobs in enumerate(
            _knobs(stage, counts, world_size, node_size) if "engine.ds_config" not in fixed else [None]
        ):
            file = engine.ds_config
            if knobs is not None:
                file = str(folder / f"{stage}-{number}.json") if knobs else ""
                if knobs:
                    Path(file).write_text(json.dumps({"zero_optimization": knobs}))
            for group in groups:
                try:
                    changed = replace(engine, kind="zero", stage=stage, momentum_group=group, ds_config=file)
                    shaped = [replace(one, engine=changed) for one in _shapes(config, world_size, fixed)]
                except UserError:
                    continue
                yield from ((one, knobs) for one in shaped)


def _knobs(stage: int, counts: ModelCounts, world_size: int, node_size: int) -> list[Knobs | None]:
    """Returns the ZeRO knobs to try at a stage."""
    if stage == 0:
        return [{}]
    buckets = sorted({min(bucket, counts.trainable) for bucket in _BUCKETS})
    plain: list[Knobs] = [{"overlap_comm": True, "reduce_bucket_size": bucket} for bucket in buckets]
    if stage < 3:
        return [*plain]
    found: list[Knobs | None] = []
    for knobs in plain:
        fetched = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": knobs["reduce_bucket_size"]}
        # Parameters stay whole until their last use, or are fetched again for the backward pass, from the node if it has a copy.
        found.append({**knobs, **fetched, "stage3_max_reuse_distance": 2 * counts.total})
        again = {**knobs, **fetched, "stage3_max_reuse_distance": 0, "stage3_max_live_parameters": knobs["reduce_bucket_size"]}
        found.append(again)
        if 1 < node_size < world_size:
            found.append({**again, "zero_hpz_partition_size": node_size})
    return found


def _shapes(config: RunConfig, world_size: int, fixed: Collection[str]) -> Iterator[RunConfig]:
    """Yields `config` with every micro-batch to try, without and with recomputation."""
    share, train = config.train.global_batch_size // world_size, config.train
    sizes = [size for size in range(share, smallest_micro_batch(config) - 1, -1) if share % size == 0][:_MICRO_BATCHES]
    if "train.micro_batch_size" in fixed:
        sizes = [train.micro_batch_size]
    given = any(path in fixed for path in CHECKPOINTS)
    for size in sizes:
        smaller = replace(config, train=replace(train, micro_batch_size=size))
        for recompute in (None,) if given else (False, True):
            switches: dict[str, Any] = {} if recompute is None else {path.split(".")[1]: recompute for path in CHECKPOINTS}
            yield replace(smaller, compute=replace(config.compute, **switches))
