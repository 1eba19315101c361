"""Predicts the speed of a run from FLOPs, bytes and messages, the overlap of communication with compute, and the loader.

    step = max(loader, accumulation x compute + communication without overlap + updates)

Compute and communication come from formulas that tests compare with counts of the real engine (`flops.py`, `communication.py`);
speeds come from a `Hardware`. benchmarks/cost_model.py compares predictions with measured steps over throttled links. Not
modelled: stragglers, congestion, checkpoints, evaluation, the loss of speed at small micro-batches.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from albef_ds.common.errors import UserError
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning import training_state
from albef_ds.launch.planning.communication import Traffic, step_traffic
from albef_ds.launch.planning.flops import PartFlops, step_flops
from albef_ds.launch.planning.hardware import Hardware, Overlap
from albef_ds.launch.planning.parameter_counts import ModelCounts
from albef_ds.launch.planning.plan import resolve, smallest_micro_batch

_UPDATE_BYTES = 28
"""Memory traffic of AdamW per parameter: fp32 weight and two moments read and written, the gradient read."""
_AVERAGE_BYTES = 12
"""Memory traffic of the momentum update: value and residual read and written, the student's fp32 weight read."""

WORLD_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Exchange:
    """Communication for one purpose: its seconds, and the `exposed` seconds that the step waits for."""

    purpose: str
    num_bytes: float
    """Bytes sent by each rank per optimizer step."""
    seconds: float
    exposed: float


@dataclass(frozen=True)
class Forecast:
    """Predicted optimizer step on each of `world_size` ranks."""

    config: RunConfig
    hardware: Hardware
    world_size: int
    compute: float
    """Seconds of all forward and backward passes."""
    exchanges: tuple[Exchange, ...]
    updates: float
    """Seconds of the optimizer's and the momentum's update."""
    loading: float
    """Seconds that the loader needs for the step's images."""
    model_flops: float
    """FLOPs of one rank, without recomputation."""

    @property
    def exposed(self) -> float:
        """Seconds of communication that the step waits for."""
        return sum(exchange.exposed for exchange in self.exchanges)

    @property
    def step(self) -> float:
        """Seconds of the step."""
        return max(self.loading, self.compute + self.exposed + self.updates)

    @property
    def images_per_second(self) -> float:
        """Images per second of all ranks together."""
        return self.config.train.global_batch_size / self.step

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation: the model's FLOP/s as a share of the GPUs' peak."""
        return self.model_flops / self.step / self.hardware.peak

    def hours(self, pairs: float, epochs: float) -> float:
        """Returns the hours for `epochs` passes over `pairs`."""
        return pairs * epochs / self.images_per_second / 3600


def forecast(config: RunConfig, counts: ModelCounts, hardware: Hardware, world_size: int, compute: float = 0.0) -> Forecast:
    """Predicts an optimizer step of `config`, whose model has `counts`, on `world_size` ranks of `hardware`.

    `compute` are measured seconds of a step's computation on one rank, updates included, instead of FLOPs / `hardware.rate`.

    Raises:
        UserError: the batch does not divide over the ranks, or the ZeRO file does not fit the stage.
    """
    precision, _ = resolve(config)
    accumulation = config.accumulation_steps(world_size)
    parts = step_flops(config, world_size)
    model, redone = accumulation * sum(part.model for part in parts), accumulation * sum(part.recompute for part in parts)
    seconds = compute or (model + redone) / hardware.rate
    per_flop = seconds / (model + redone)
    traffic = step_traffic(config, counts, precision, world_size, hardware.node_size(world_size))
    phases = _phases(config, hardware.overlap, world_size, parts, accumulation * per_flop)
    return Forecast(
        config=config,
        hardware=hardware,
        world_size=world_size,
        compute=seconds,
        exchanges=_exchanges(hardware, world_size, traffic, phases),
        updates=0.0 if compute else _updates(config, counts, hardware, world_size),
        loading=accumulation * config.train.micro_batch_size / hardware.images,
        model_flops=model,
    )


def _phases(config: RunConfig, overlap: Overlap, world_size: int, parts: list[PartFlops], per_flop: float) -> dict[str, float]:
    """Returns the seconds of each computation that hides communication; `per_flop` turns a micro-batch's FLOPs into a step's."""
    backward = per_flop * sum(part.backward + part.recompute for part in parts)
    if config.engine.stage < 2:  # gradients are reduced once, during the last micro-batch's backward pass
        backward /= config.accumulation_steps(world_size)
    # Below stage 3 only the features are beside the forward pass, which the task sends itself.
    forward = overlap.parameters if config.engine.stage == 3 else overlap.momentum
    return {
        "forward": per_flop * sum(part.forward for part in parts) if forward else 0.0,
        "backward": backward if overlap.gradients else 0.0,
        "momentum": per_flop * sum(part.momentum for part in parts) if overlap.momentum else 0.0,
    }


def _exchanges(hardware: Hardware, world_size: int, traffic: list[Traffic], phases: dict[str, float]) -> tuple[Exchange, ...]:
    """Returns the exchange per purpose. What is hidden beside one phase shares its seconds."""
    seconds = []
    for one in traffic:
        network = replace(hardware, per_node=1) if one.apart else hardware
        # Units and ZeRO-3's parameters are gathered ahead of the modules that need them, several at a time.
        ahead = one.operation == "all_gather" and one.beside in ("forward", "backward", "momentum")
        calls = max(1.0, one.calls / hardware.in_flight) if ahead else one.calls
        seconds.append(network.seconds(one.operation, network.sent(one, world_size), calls, one.group(world_size)))
    waits = {"": 1.0}
    """Phase -> share of its communication that the step waits for."""
    for phase, available in phases.items():
        own = [(one, time) for one, time in zip(traffic, seconds, strict=True) if one.beside == phase]
        total = sum(time for _, time in own)
        # The first fetch, or the last bucket, does not overlap with computation. What is sent before the phase begins does.
        streamed = [(one, time) for one, time in own if one.purpose in ("gradients", "parameters") or phase == "momentum"]
        first = max((time / one.calls for one, time in streamed if one.calls), default=0.0)
        waits[phase] = max(total - available, first) / total if total else 0.0
    found = []
    for purpose in dict.fromkeys(one.purpose for one in traffic):
        times = [(one, time) for one, time in zip(traffic, seconds, strict=True) if one.purpose == purpose]
        found.append(
            Exchange(
                purpose,
                sum(hardware.sent(one, world_size) for one, _ in times),
                sum(time for _, time in times),
                sum(time * waits[one.beside] for one, time in times),
            )
        )
    return tuple(found)


def _updates(config: RunConfig, counts: ModelCounts, hardware: Hardware, world_size: int) -> float:
    zero = training_state.Zero.of(config)
    ranks = world_size if zero.stage else 1
    dense = config.engine.momentum_storage == "dense"
    group = 1 if dense else config.engine.momentum_group_size(world_size, hardware.node_size(world_size))
    average = _AVERAGE_BYTES * counts.trainable / (world_size if config.engine.stage == 3 else group)
    return (_UPDATE_BYTES * counts.trainable / ranks + average) / hardware.memory_bandwidth


def at(config: RunConfig, world_size: int, stage: int, fixed_batch: bool) -> RunConfig:
    """Returns `config` for `world_size` ranks at `stage`.

    With `fixed_batch` the global batch is constant and each rank's part of it shrinks to at least one pair; otherwise the
    micro-batch is constant and the global batch grows.
    """
    micro_batch, accumulation = config.train.micro_batch_size, 1
    if fixed_batch:
        share = max(1, config.train.global_batch_size // world_size)
        micro_batch = min(micro_batch, share)
        accumulation = max(1, share // micro_batch)
    train = replace(config.train, micro_batch_size=micro_batch, global_batch_size=micro_batch * world_size * accumulation)
    # The file's knobs may not fit another stage, which then uses the defaults.
    file = config.engine.ds_config if stage == config.engine.stage else ""
    return replace(config, train=train, engine=replace(config.engine, kind="zero", stage=stage, ds_config=file))


def with_smaller_micro_batch(config: RunConfig, world_size: int) -> RunConfig:
    """Returns `config` with the micro-batch lowered to a rank's share of the global batch, if that divides and is smaller."""
    share, rest = divmod(config.train.global_batch_size, world_size)
    if rest or not share or share >= config.train.micro_batch_size:
        return config
    return replace(config, train=replace(config.train, micro_batch_size=share))


def stages_allowed(config: RunConfig) -> tuple[int, ...]:
    """Returns the ZeRO stages from 1 to 3 that the other settings of `config` allow."""
    allowed = []
    for stage in (1, 2, 3):
        with contextlib.suppress(UserError):
            replace(config, engine=replace(config.engine, kind="zero", stage=stage, ds_config=""))
            allowed.append(stage)
    return tuple(allowed)


def scaling(
    config: RunConfig, counts: ModelCounts, hardware: Hardware, fixed_batch: bool, stages: tuple[int, ...] | None = None
) -> list[dict[int, Forecast]]:
    """Returns a row per number of ranks in `WORLD_SIZES` with a forecast per stage; None: every allowed stage."""
    stages = stages_allowed(config) if stages is None else stages
    smallest, rows = smallest_micro_batch(config), []
    for world_size in WORLD_SIZES:
        if fixed_batch and config.train.global_batch_size < smallest * world_size:
            break
        rows.append(
            {stage: forecast(at(config, world_size, stage, fixed_batch), counts, hardware, world_size) for stage in stages}
        )
    return rows


def efficiency(one: Forecast, single: Forecast) -> float:
    """Returns images per second and GPU, divided by those of a single GPU."""
    return one.images_per_second / one.world_size / single.images_per_second


def alone(one: Forecast, counts: ModelCounts) -> Forecast:
    """Returns the step of a single GPU with the micro-batch and the accumulation of `one`."""
    train = replace(one.config.train, global_batch_size=one.config.train.global_batch_size // one.world_size)
    return forecast(replace(one.config, train=train), counts, one.hardware, 1)
