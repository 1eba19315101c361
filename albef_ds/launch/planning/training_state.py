"""Computes bytes per rank of weights, gradients, optimizer and momentum model under each ZeRO stage, as DeepSpeed allocates them.

They include the padding with which DeepSpeed makes parts equal, but not activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.parameter_counts import ModelCounts

# DeepSpeed's defaults for knobs that a ZeRO file leaves out, in elements.
_BUCKET = 500_000_000
_PERSISTENCE = 100_000
_MAX_LIVE = _MAX_REUSE = 1_000_000_000
_PREFETCH = 50_000_000

_STORAGE_BYTES = {"value_residual": 4, "fp32": 4, "fp16_stochastic": 2, "fp16_nearest": 2}
_GATHERED_BYTES = {"value_residual": 2, "fp32": 4, "fp16_stochastic": 2, "fp16_nearest": 2}


@dataclass(frozen=True)
class Zero:
    """ZeRO knobs that affect memory."""

    stage: int
    reduce_bucket: int = _BUCKET
    overlap: bool = False
    contiguous: bool = True
    persistence: int = _PERSISTENCE
    max_live: int = _MAX_LIVE
    max_reuse: int = _MAX_REUSE
    prefetch: int = _PREFETCH
    secondary: int = 1
    """Ranks of a group that holds a second copy of the parameters (hpZ); 1: none."""
    norm: bool = True
    """Whether the norm of the gradients is computed."""
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> Zero:
        """Reads `engine.stage` and the file `engine.ds_config`. Raises `UserError` if the file does not fit the stage."""
        stage, file = config.engine.stage, config.engine.ds_config
        knobs: dict[str, Any] = load_ds_config(Path(file), stage).get("zero_optimization", {}) if file else {}

        def offloaded(name: str) -> bool:
            return bool(knobs.get(name, {}).get("device", "none") != "none")

        return cls(
            stage=stage,
            reduce_bucket=int(knobs.get("reduce_bucket_size", _BUCKET)),
            overlap=bool(knobs.get("overlap_comm", stage == 3)),
            contiguous=bool(knobs.get("contiguous_gradients", True)),
            persistence=int(knobs.get("stage3_param_persistence_threshold", _PERSISTENCE)),
            max_live=int(knobs.get("stage3_max_live_parameters", _MAX_LIVE)),
            max_reuse=int(knobs.get("stage3_max_reuse_distance", _MAX_REUSE)),
            prefetch=int(knobs.get("stage3_prefetch_bucket_size", _PREFETCH)),
            secondary=int(knobs.get("zero_hpz_partition_size", 1)),
            norm=bool(knobs.get("compute_grad_norm", True)),
            offload_optimizer=offloaded("offload_optimizer"),
            offload_parameters=offloaded("offload_param"),
        )


def part(numel: int, world_size: int) -> int:
    """Returns the elements of a rank's part of a parameter, padding included."""
    return -(-numel // world_size)


def flat_elements(numel: int, world_size: int) -> int:
    """Returns the elements of a flat group after DeepSpeed's padding to 2 elements per rank."""
    return part(numel, 2 * world_size) * 2 * world_size


def parameters(counts: ModelCounts, zero: Zero, itemsize: int, world_size: int) -> int:
    """Returns the bytes of weights in the compute precision that stay on the device."""
    if zero.stage < 3:
        groups = counts.groups if zero.stage == 0 else [[flat_elements(sum(group), world_size)] for group in counts.groups]
        return itemsize * (sum(map(sum, groups)) + sum(counts.frozen))
    # Small parameters are kept whole beside their parts; on one rank the part is the whole parameter.
    whole = sum(numel for numel in counts.parameters if numel <= zero.persistence) if world_size > 1 else 0
    parts = 0 if zero.offload_parameters else sum(part(numel, world_size) for numel in counts.parameters)
    secondary = sum(part(numel, zero.secondary) for numel in counts.parameters) if zero.secondary > 1 else 0
    return itemsize * (parts + whole + secondary)


def _owned(counts: ModelCounts, zero: Zero, world_size: int) -> int:
    """Returns the trainable elements whose optimizer state is on one rank."""
    if zero.stage == 0:
        return counts.trainable
    if zero.stage == 3:
        return sum(part(numel, world_size) for group in counts.groups for numel in group)
    return sum(flat_elements(sum(group), world_size) // world_size for group in counts.groups)


def gradients(counts: ModelCounts, zero: Zero, itemsize: int, world_size: int) -> int:
    """Returns the bytes of gradients right after a backward pass."""
    if zero.stage == 0:
        return itemsize * counts.trainable
    if zero.offload_optimizer:
        return 0
    if zero.stage == 3:
        return itemsize * _owned(counts, zero, world_size)
    return itemsize * max(_touched(counts, rank, world_size) for rank in range(world_size))


def _touched(counts: ModelCounts, rank: int, world_size: int) -> int:
    """Returns the elements of the parameters that overlap a rank's flat part: ZeRO-1 and 2 keep their whole gradients."""
    elements = 0
    for group in counts.groups:
        size = flat_elements(sum(group), world_size) // world_size
        start = 0
        for numel in group:
            if start < (rank + 1) * size and start + numel > rank * size:
                elements += numel
            start += numel
    return elements


def optimizer(counts: ModelCounts, zero: Zero, itemsize: int, world_size: int) -> int:
    """Returns the bytes of fp32 masters and AdamW's two moments; at stage 0 in fp32 the weights are the masters."""
    if zero.offload_optimizer:
        return 0
    masters = 0 if zero.stage == 0 and itemsize == 4 else 4
    return (masters + 8) * _owned(counts, zero, world_size)


def step_temporary(counts: ModelCounts, zero: Zero, itemsize: int, world_size: int) -> int:
    """Returns the bytes needed only when no activation is alive.

    These are ZeRO-1's other gradients after the backward pass, or the fp32 copy of a group's gradients in the optimizer step.
    """
    fp32_copy = 0
    if not (zero.offload_optimizer or (zero.stage == 0 and itemsize == 4)):
        fp32_copy = 4 * max(-(-sum(group) // (world_size if zero.stage else 1)) for group in counts.groups)
    unreduced = itemsize * counts.trainable - gradients(counts, zero, itemsize, world_size) if zero.stage == 1 else 0
    return max(unreduced, fp32_copy)


def momentum(config: RunConfig, counts: ModelCounts, world_size: int, node_size: int = 0) -> int:
    """Returns the bytes of the momentum model between forward passes: its shards, or the dense fp32 copy.

    Under ZeRO-3 with several groups, those are a rank's part of all and the values of its part of the group's copy. `node_size`
    are the ranks of a node, 0: all.
    """
    storage = config.engine.momentum_storage
    sizes = [numel for unit in counts.units for numel in unit]
    if storage == "dense":
        return 4 * sum(sizes)
    ranks = config.engine.momentum_group_size(world_size, node_size or world_size)
    groups = world_size // ranks
    if config.engine.stage < 3 or config.engine.kind == "local" or groups == 1:
        return _STORAGE_BYTES[storage] * sum(part(numel, ranks) for numel in sizes)
    own = sum(part(numel, world_size) for numel in sizes)
    return (_STORAGE_BYTES[storage] + groups * _GATHERED_BYTES[storage]) * own


_MESSAGES = 3
"""Messages with momentum units that are held at a time: one whose units compute, two on their way."""


def whole_units(config: RunConfig, counts: ModelCounts, itemsize: int, world_size: int, node_size: int = 0) -> int:
    """Returns the peak bytes of gathered momentum units: the messages, and the largest unit in the compute precision.

    `node_size` are the ranks of a node, 0: all.
    """
    engine = config.engine
    if engine.momentum_storage == "dense":
        # The fp32 copy computes in bf16 under autocast, which caches the converted weights of the pass.
        return 0 if itemsize == 4 else itemsize * sum(map(sum, counts.units))
    if engine.momentum_group_size(world_size, node_size or world_size) == 1:
        return 0 if engine.momentum_storage == "fp32" and itemsize == 4 else counts.largest_unit * itemsize
    sent = sum(map(sum, counts.units)) + sum(map(sum, counts.borrowed))
    held = min(sent, _MESSAGES * max(engine.momentum_bucket_size, counts.largest_unit))
    return held * _GATHERED_BYTES[engine.momentum_storage] + counts.largest_unit * itemsize


def queue(config: RunConfig) -> int:
    """Returns the bytes of the feature queue: fp32 features of both modalities and two int64 ids per entry."""
    return config.pretraining().queue_size * (2 * 4 * config.model.embed_dim + 2 * 8)


def buckets(counts: ModelCounts, zero: Zero, itemsize: int, world_size: int) -> int:
    """Returns the bytes of communication buffers in the backward pass, which do not depend on the model's size."""
    if zero.stage == 0:
        return itemsize * min(zero.reduce_bucket, counts.trainable) if world_size > 1 else 0
    if zero.stage == 3:
        return itemsize * zero.reduce_bucket if zero.contiguous else 0
    return itemsize * zero.reduce_bucket * (2 if zero.overlap else 1) if zero.contiguous else 0


def gathered(counts: ModelCounts, zero: Zero, itemsize: int, world_size: int) -> int:
    """Returns the bytes of whole large parameters of the student under ZeRO-3, after a forward pass.

    DeepSpeed keeps a parameter that is used again within `stage3_max_reuse_distance`, forward and backward counted, and gathers
    ahead up to `stage3_prefetch_bucket_size` or `stage3_max_live_parameters`. The largest one is whole in any case.
    """
    if zero.stage < 3 or (world_size == 1 and not zero.offload_parameters):
        return 0
    large = [numel for numel in counts.parameters if numel > zero.persistence]
    kept = zero.max_reuse // 2 + min(zero.max_live, zero.prefetch)
    return itemsize * min(sum(large), max(kept, *large, 0))
