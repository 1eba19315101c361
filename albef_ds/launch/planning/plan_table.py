"""Formats a memory plan as text and as a dictionary."""

from __future__ import annotations

from typing import Any

from albef_ds.launch.planning.plan import GB, Plan
from albef_ds.launch.planning.settings_search import Choice


def render(plan: Plan, memory: int | None, largest: int | None, choice: Choice | None) -> str:
    """Returns the table of one rank's memory, its total compared with `memory` bytes, and the advice."""
    config = plan.config
    recomputed = [name for name in ("visual", "text", "multimodal") if getattr(config.compute, f"checkpoint_{name}")]
    head = (
        f"{config.recipe or 'configuration'} on {plan.world_size} rank(s), {plan.precision}, ZeRO stage {config.engine.stage}, "
        f"micro-batch {config.train.micro_batch_size}, global batch {config.train.global_batch_size}, "
        f"activation checkpointing: {', '.join(recomputed) or 'none'}"
    )
    width = max(len(line.name) for line in plan.lines)
    rows = [f"  {line.name:<{width}}  {line.num_bytes / GB:8.3f} GB  {line.note}".rstrip() for line in plan.lines]
    rows.append(f"  {'total per rank':<{width}}  {plan.total / GB:8.3f} GB")
    text = [head, "", *rows, ""]
    if memory is not None:
        spare = (memory - plan.total) / GB
        result = f"fits, {spare:.1f} GB to spare" if spare >= 0 else f"does not fit, {-spare:.1f} GB too much"
        text.append(f"{memory / GB:.4g} GB per GPU: {result}")
    if largest is not None:
        text.append(f"largest micro-batch that fits with these settings: {largest or 'none'}")
    if choice is not None:
        text.append(f"overrides to copy: {' '.join(choice.overrides) or '(none: the configuration fits as it is)'}")
    text.append("1 GB = 2^30 bytes; docs/memory.md has the formulas and assumptions")
    return "\n".join(text)


def to_json(plan: Plan, memory: int | None, largest: int | None, choice: Choice | None) -> dict[str, Any]:
    """Returns the same as plain values, sizes in bytes."""
    return {
        "gpus": plan.world_size,
        "precision": plan.precision,
        "stage": plan.config.engine.stage,
        "micro_batch_size": plan.config.train.micro_batch_size,
        "global_batch_size": plan.config.train.global_batch_size,
        "lines": [{"name": line.name, "bytes": line.num_bytes, "note": line.note} for line in plan.lines],
        "total_bytes": plan.total,
        "memory_bytes": memory,
        "fits": None if memory is None else plan.total <= memory,
        "largest_micro_batch_size": largest,
        "overrides": None if choice is None else list(choice.overrides),
    }
