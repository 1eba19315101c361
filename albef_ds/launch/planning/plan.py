"""Plans one rank's memory for one configuration, and finds the largest micro-batch that fits.

`settings_search.py` searches among settings; `plan_table.py` prints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning import training_state as states
from albef_ds.launch.planning.activations import Compute, activations, temporary
from albef_ds.launch.planning.parameter_counts import ModelCounts, count

GB = 2**30
"""Bytes of a GB of GPU memory: a card with 24 GB has 24 x 2^30 bytes."""

OVERHEAD = int(1.5 * GB)
"""Bytes of CUDA context, NCCL and cuBLAS workspaces on one GPU: an assumption, not a measurement."""

FRAGMENTATION = 0.05
"""Share of the forward and backward pass's memory that the caching allocator cannot use: an assumption."""

NODE_SIZE = 8
"""GPUs of a node where nothing else is given."""

_LARGEST_BATCH = 1 << 14


@dataclass(frozen=True)
class Line:
    """One row of the table: name, bytes on the device, and a note on the source of the number."""

    name: str
    num_bytes: int
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """Memory of one rank."""

    config: RunConfig
    world_size: int
    precision: str
    lines: tuple[Line, ...]
    step_bytes: int
    """Bytes that the optimizer step needs besides the persistent ones, at a time when no activations exist."""

    @property
    def total(self) -> int:
        """Peak bytes."""
        return sum(line.num_bytes for line in self.lines)


def resolve(config: RunConfig) -> tuple[str, str]:
    """Returns precision and device type to plan for; `auto` is bf16 on a GPU.

    Raises:
        ConfigError: the local engine with autocast, whose memory is not modelled.
    """
    device = "cpu" if config.engine.device == "cpu" else "cuda"
    precision = config.engine.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    if config.engine.kind == "local" and precision != "fp32":
        raise ConfigError(f"engine.kind=local in {precision} cannot be planned: add engine.kind=zero, or engine.precision=fp32")
    return precision, device


def check_micro_batch(config: RunConfig, world_size: int) -> None:
    """Raises `ConfigError` if the batch does not divide over the ranks, or the engine does not support that many."""
    config.accumulation_steps(world_size)
    if config.engine.kind == "local" and world_size > 1:
        raise ConfigError(f"engine.kind=local runs one process, not {world_size}: add engine.kind=zero")


def make_plan(config: RunConfig, world_size: int, counts: ModelCounts | None = None, node_size: int = NODE_SIZE) -> Plan:
    """Returns the memory plan of one of `world_size` ranks, `node_size` to a node.

    `counts` avoids counting the same model again.

    Raises:
        UserError: the ZeRO file does not fit the stage, or the engine cannot be planned.
    """
    counts = count(config) if counts is None else counts
    precision, device = resolve(config)
    itemsize = 4 if precision == "fp32" else 2
    engine = config.engine if config.engine.kind == "zero" else replace(config.engine, kind="zero", stage=0)
    zero = states.Zero.of(replace(config, engine=engine))
    sizes = (counts, zero, itemsize, world_size)
    compute = Compute.of(config, precision, device)
    parts = activations(config, compute, world_size)
    recomputed = max(part.recomputed for part in parts)
    node_size = min(node_size, world_size)
    momentum_note = f"engine.momentum_storage={config.engine.momentum_storage}"
    if config.engine.momentum_storage != "dense":
        momentum_note += f", over {config.engine.momentum_group_size(world_size, node_size)} rank(s)"
    lasting = [
        Line("parameters", states.parameters(*sizes), f"{counts.total / 1e6:.1f}M in {precision}"),
        Line("gradients", states.gradients(*sizes), f"{counts.trainable / 1e6:.1f}M trainable"),
        Line("optimizer", states.optimizer(*sizes), "on the host" if zero.offload_optimizer else "fp32 master + AdamW moments"),
        Line("momentum shards", states.momentum(config, counts, world_size, node_size), momentum_note),
        Line("feature queue", states.queue(config), f"{config.pretraining().queue_size} entries per modality, fp32"),
    ]
    passing = [
        Line("momentum units, whole", states.whole_units(config, counts, itemsize, world_size, node_size), "messages, one unit"),
        Line("ZeRO-3 whole parameters", states.gathered(*sizes), "stage3_max_reuse_distance / 2 + prefetching"),
        Line("communication buckets", states.buckets(*sizes), "reduce_bucket_size"),
        *(Line(f"activations: {part.name}", part.kept) for part in parts),
        Line("activations: recomputed layer", recomputed, "the largest checkpointed layer"),
        Line("largest temporary", temporary(config, compute), "estimate"),
    ]
    if device == "cuda":
        moving = sum(line.num_bytes for line in passing)
        passing.append(Line("fragmentation", int(FRAGMENTATION * moving), f"assumed {FRAGMENTATION:.0%} of the passing tensors"))
    step = states.step_temporary(*sizes)
    # Gradients in fp32 exist only after the activations are freed, so they count only as far as they are larger.
    extra = max(0, step - sum(line.num_bytes for line in passing))
    passing.append(Line("optimizer step beyond that", extra, "fp32 copy of a gradient part"))
    if device == "cuda":
        passing.append(Line("CUDA, NCCL, cuBLAS", OVERHEAD, "assumed"))
    lines = tuple(line for line in [*lasting, *passing] if line.num_bytes)
    return Plan(config, world_size, precision, lines, step)


def with_micro_batch(config: RunConfig, micro_batch: int, world_size: int) -> RunConfig:
    """Returns `config` with this micro-batch, and the global batch rounded to a multiple of it over all ranks."""
    at_once = micro_batch * world_size
    whole = max(1, round(config.train.global_batch_size / at_once)) * at_once
    return replace(config, train=replace(config.train, micro_batch_size=micro_batch, global_batch_size=whole))


def smallest_micro_batch(config: RunConfig) -> int:
    """Returns the smallest micro-batch that can be trained: ITM needs a negative."""
    return 1 if config.pretraining().gather_negatives or config.pretraining().itm_weight == 0 else 2


def largest_micro_batch(config: RunConfig, world_size: int, memory: int, counts: ModelCounts, node_size: int = NODE_SIZE) -> int:
    """Returns the largest micro-batch whose plan needs at most `memory` bytes, 0 if there is none."""

    def fits(micro_batch: int) -> bool:
        changed = with_micro_batch(config, micro_batch, world_size)
        return make_plan(changed, world_size, counts, node_size).total <= memory

    low = smallest_micro_batch(config)
    if not fits(low):
        return 0
    high = 2 * low
    while high <= _LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
