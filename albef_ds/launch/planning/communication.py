"""Computes the bytes that one optimizer step communicates, by purpose and collective, from the model's shapes.

Every size is that of the *whole* tensor of a collective: the output of an all-gather, the input of a reduce-scatter, or that
of an all-reduce; of an all-to-all, what a rank receives on average. `Traffic.sent` gives the bytes that a rank sends. Tests
compare with the collectives of the real engine, which `recorder.py` counts. `throughput.py` computes times.

DeepSpeed 0.19 reduces the gradients of ZeRO-1 and 2 by all-reduce (`use_multi_rank_bucket_allreduce`) instead of reduce-scatter,
with twice the bytes that the ZeRO paper counts, in fewer and larger messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.parameter_counts import ModelCounts
from albef_ds.launch.planning.training_state import Zero, flat_elements, part

ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "bool": 1, "uint8": 1}
DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_REUSE_DISTANCE = 1_000_000_000
"""DeepSpeed's default of `stage3_max_reuse_distance`, in elements."""
_MAX_LIVE = 1_000_000_000
"""DeepSpeed's default of `stage3_max_live_parameters`, in elements."""
_PREFETCH = 50_000_000
"""DeepSpeed's default of `stage3_prefetch_bucket_size`, in elements."""


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind in an optimizer step."""

    purpose: str
    """`gradients`, `parameters` (of the student), `momentum`, `features` or `scalars` (norms, flags)."""
    operation: str
    """`all_gather`, `reduce_scatter`, `all_reduce` or `all_to_all`."""
    dtype: str
    num_bytes: int
    """Bytes of the whole tensors, over all calls."""
    calls: int
    beside: str = ""
    """Computation that hides it: `forward`, `backward` or `momentum` (the momentum model's forward pass); empty: none does."""
    ranks: int = 0
    """Ranks among which it is exchanged, in every such group at once; 0: all ranks."""
    apart: bool = False
    """Whether the ranks of a group are on different nodes; else they are consecutive."""

    def group(self, world_size: int) -> int:
        """Returns the number of ranks that exchange it."""
        return self.ranks or world_size

    def sent(self, world_size: int) -> float:
        """Returns the bytes that each rank sends, and receives, with the ring algorithm."""
        rounds, ranks = 2 if self.operation == "all_reduce" else 1, self.group(world_size)
        return rounds * self.num_bytes * (ranks - 1) / ranks


def step_traffic(config: RunConfig, counts: ModelCounts, precision: str, world_size: int, node_size: int = 0) -> list[Traffic]:
    """Returns all collectives of an optimizer step of `config`, whose model has `counts`, accumulation included.

    `precision` is `fp32`, `bf16` or `fp16`. `node_size` are the ranks of a node, 0: all. One rank, and `engine.kind=local`,
    exchange nothing.

    Raises:
        UserError: the ZeRO file does not fit the stage, the batch does not divide over the ranks, or the ranks not into groups.
    """
    if world_size == 1 or config.engine.kind == "local":
        return []
    accumulation = config.accumulation_steps(world_size)
    zero = Zero.of(config)
    knobs = _Knobs.of(config)
    found = [
        _gradients(counts, zero, knobs.communication or DTYPE[precision], world_size, accumulation),
        *_parameters(config, counts, zero, knobs, DTYPE[precision], world_size, accumulation),
        *_momentum(config, counts, world_size, node_size or world_size, accumulation),
        *_features(config, DTYPE[precision], world_size, accumulation),
        *_scalars(config, counts, zero, world_size, accumulation),
    ]
    found = [replace(traffic, ranks=traffic.ranks % world_size) for traffic in found]
    return [traffic for traffic in found if traffic.num_bytes and traffic.group(world_size) > 1]


@dataclass(frozen=True)
class _Knobs:
    """Knobs of the ZeRO file that affect communication and are not in `Zero`."""

    communication: str
    """Data type in which gradients are sent; empty: the parameters'."""
    reuse_distance: int
    prefetch: int
    """Maximum number of elements that one prefetch gathers together; 0: each parameter alone."""
    max_live: int
    """Maximum number of whole elements up to which prefetching goes on."""
    secondary: int
    """Ranks of a group that holds a second copy of the parameters (hpZ); 1: none."""

    @classmethod
    def of(cls, config: RunConfig) -> _Knobs:
        file = config.engine.ds_config
        content: dict[str, Any] = load_ds_config(Path(file), config.engine.stage) if file else {}
        zero = content.get("zero_optimization", {})
        return cls(
            DTYPE.get(str(content.get("communication_data_type")), ""),
            int(zero.get("stage3_max_reuse_distance", _REUSE_DISTANCE)),
            int(zero.get("stage3_prefetch_bucket_size", _PREFETCH)),
            int(zero.get("stage3_max_live_parameters", _MAX_LIVE)),
            int(zero.get("zero_hpz_partition_size", 1)),
        )


def _cut(sizes: Iterable[int], world_size: int) -> int:
    """Returns the elements of parameters whose parts are padded to equal size."""
    return sum(part(numel, world_size) * world_size for numel in sizes)


def _gradients(counts: ModelCounts, zero: Zero, dtype: str, world_size: int, accumulation: int) -> Traffic:
    # Stages 0 and 1 keep whole gradients and reduce them once; stages 2 and 3 reduce them after every backward pass.
    times = accumulation if zero.stage >= 2 else 1
    # A bucket ends with a whole parameter, so there may be one or two more.
    calls = times * -(-counts.trainable // zero.reduce_bucket)
    beside = "backward" if zero.overlap else ""
    if zero.stage < 3:
        return Traffic("gradients", "all_reduce", dtype, times * counts.trainable * ITEMSIZE[dtype], calls, beside)
    elements = _cut((numel for group in counts.groups for numel in group), world_size)
    return Traffic("gradients", "reduce_scatter", dtype, times * elements * ITEMSIZE[dtype], calls, beside)


def _parameters(
    config: RunConfig, counts: ModelCounts, zero: Zero, knobs: _Knobs, dtype: str, world_size: int, accumulation: int
) -> list[Traffic]:
    if zero.stage == 0:
        return []
    if zero.stage < 3:
        elements = sum(flat_elements(sum(group), world_size) for group in counts.groups)
        return [Traffic("parameters", "all_gather", dtype, elements * ITEMSIZE[dtype], len(counts.groups))]
    small = [numel for numel in counts.parameters if numel <= zero.persistence]
    large = [numel for numel in counts.parameters if numel > zero.persistence]
    again = accumulation * (fetches_per_pass(config, counts, knobs.reuse_distance, knobs.max_live) - 1)
    # The first module's parameters, then as many as a bucket holds. Where parameters are freed and fetched again, a bucket is
    # filled only as they are freed: 154 messages were counted in two passes over 330 parameters, 98 in one over 371.
    together = 1 + -(-sum(large) // knobs.prefetch) if knobs.prefetch else len(large)
    together = max(together, len(large) // 4) if again else together
    num_bytes = _cut(large, world_size) * ITEMSIZE[dtype]
    # The backward pass fetches from a group's secondary parts (hpZ), where there are any; a recomputed forward pass does not.
    group = knobs.secondary if knobs.secondary > 1 and not _recomputes(config) else 0
    return [
        # Small parameters, which stay whole, are gathered once, after the step, one by one.
        Traffic("parameters", "all_gather", dtype, _cut(small, world_size) * ITEMSIZE[dtype], len(small)),
        Traffic("parameters", "all_gather", dtype, accumulation * num_bytes, accumulation * together, "forward"),
        Traffic("parameters", "all_gather", dtype, again * num_bytes, again * together, "backward", group),
    ]


def fetches_per_pass(config: RunConfig, counts: ModelCounts, reuse_distance: int, max_live: int = 0) -> int:
    """Returns how often ZeRO-3 gathers a large parameter per forward and backward pass.

    It is 1 if the pass fits into `stage3_max_reuse_distance`, because the parameter then stays whole until its last use, and if
    prefetching may take all parameters (`stage3_max_live_parameters`), because it passes over uses that come sooner. Else
    it is 1 per forward and per backward pass, and 1 for recomputation. This is an estimate: a module that runs several times is
    fetched each time, and parameters prefetched at the turn from forward to backward are kept.
    """
    if reuse_distance >= 2 * counts.total or max_live >= counts.total:
        return 1
    return 3 if _recomputes(config) else 2


def _recomputes(config: RunConfig) -> bool:
    compute = config.compute
    return compute.checkpoint_visual or compute.checkpoint_text or compute.checkpoint_multimodal


def _momentum(config: RunConfig, counts: ModelCounts, world_size: int, node_size: int, accumulation: int) -> list[Traffic]:
    """Returns the gathers of the momentum model's units in a group and, under ZeRO-3, its new values from other groups."""
    storage = config.engine.momentum_storage
    if storage == "dense":
        return []
    ranks = config.engine.momentum_group_size(world_size, node_size)
    dtype = "float32" if storage == "fp32" else "float16"
    units = running_units(config, counts)
    parts = world_size if config.engine.stage == 3 else ranks
    elements = sum(_cut([*own, *borrowed], parts) for own, borrowed in units)
    calls = packed([sum(own) + sum(borrowed) for own, borrowed in units], config.engine.momentum_bucket_size)
    num_bytes = accumulation * elements * ITEMSIZE[dtype]
    inside = Traffic("momentum", "all_gather", dtype, num_bytes, accumulation * calls, "momentum", ranks)
    groups = world_size // ranks
    if config.engine.stage < 3 or groups == 1:
        return [inside]
    # Each rank receives what its group keeps on it: the parts of one rank of every group.
    received = groups * sum(part(numel, world_size) for unit in counts.units for numel in unit) * ITEMSIZE[dtype]
    # It is sent after the update and needed when the momentum model computes, after the student's encoders.
    return [inside, Traffic("momentum", "all_gather", dtype, received, 1, "forward", groups, apart=ranks > 1)]


def packed(sizes: Sequence[int], bucket_size: int) -> int:
    """Returns the messages for units of these sizes in the order of the pass: several in one up to `bucket_size` elements."""
    messages, held = 0, bucket_size
    for size in sizes:
        if messages == 0 or held + size > bucket_size:
            messages, held = messages + 1, 0
        held += size
    return messages


def running_units(config: RunConfig, counts: ModelCounts) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Returns the sizes of the own and borrowed parameters of every momentum unit that a forward pass needs, in its order."""
    fused = ("albef.multimodal_encoder", "mlm_head")
    named = sorted(zip(counts.unit_names, counts.units, counts.borrowed, strict=True), key=lambda unit: unit[0].startswith(fused))
    # With alpha = 0 the momentum MLM head is never run.
    idle = fused if config.pretraining().alpha == 0.0 else ()
    return [(own, borrowed) for name, own, borrowed in named if not name.startswith(idle or ("\0",)) if own or borrowed]


def _features(config: RunConfig, dtype: str, world_size: int, accumulation: int) -> list[Traffic]:
    """Returns features and ids for the queue: once per step or, with `task.gather_negatives`, in each micro-batch."""
    rows = config.train.micro_batch_size * world_size * accumulation
    gathered = rows if config.pretraining().gather_negatives else 0
    # Each sample has three numbers of 8 bytes and two fp32 features, in one message.
    num_bytes = (3 * 8 + 2 * 4 * config.model.embed_dim) * rows
    if not gathered:  # they travel while the next step's encoders run
        return [Traffic("features", "all_gather", "uint8", num_bytes, 1, "forward")]
    length, vision = config.text_length, config.model.vision
    drawn = 2 * 8 + length  # the candidates drawn of both modalities, and the texts' masks
    embeds = gathered // world_size * (length * config.model.text.width + vision.num_tokens * vision.width) * ITEMSIZE[dtype]
    return [
        Traffic("features", "all_gather", "uint8", num_bytes + drawn * gathered, 2 * accumulation),
        # Drawn texts and images, and their gradients. A row that many ranks draw takes further messages.
        Traffic("features", "all_to_all", dtype, 2 * embeds, 4 * accumulation),
    ]


def _scalars(config: RunConfig, counts: ModelCounts, zero: Zero, world_size: int, accumulation: int) -> list[Traffic]:
    """Returns single numbers that all ranks must agree on: few bytes, but each one waits for every rank."""
    found = []
    norms = len(counts.groups) if zero.offload_optimizer else 1
    if zero.stage in (1, 2):
        norms = norms if zero.norm else 0
        found = [Traffic("scalars", "all_reduce", "float32", 4 * norms, norms)]
        if zero.offload_optimizer or not zero.norm:
            found.append(Traffic("scalars", "all_reduce", "uint8", 1, 1))  # overflow of any gradient
    elif zero.stage == 3:
        found = [Traffic("scalars", "all_reduce", "float64", 8 * norms, norms)]
    if config.pretraining().gather_negatives:  # the longest text and the masked tokens
        found.append(Traffic("scalars", "all_gather", "int64", 2 * 8 * world_size * accumulation, accumulation))
    return found
