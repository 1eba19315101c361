"""Measures what a process holds under DeepSpeed: bytes of distinct storages by owner, right after a backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from albef_ds.common import comm
from albef_ds.config.schema import (
    DataConfig,
    EngineConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TrainConfig,
)
from albef_ds.data import mock
from albef_ds.launch.planning import training_state
from albef_ds.launch.planning.parameter_counts import count
from tests.engine.zero.common import make
from tests.tiny import tiny_model

BUCKET = 300_000
SETTINGS = [(stage, precision) for precision in ("fp32", "bf16") for stage in range(4)]


def few_million(folder: Path) -> RunConfig:
    """2.8M parameters in shapes that leave padding, with a bucket of `BUCKET` elements at stages 1 to 3."""
    file = folder / "zero.json"
    file.write_text(f'{{"zero_optimization": {{"reduce_bucket_size": {BUCKET}, "overlap_comm": true}}}}')
    return RunConfig(
        model=tiny_model(
            vision={"image_size": 32, "width": 192, "depth": 3, "num_heads": 3},
            text={"vocab_size": 3001, "width": 128, "intermediate_width": 512, "max_positions": 64, "dropout": 0.1},
            embed_dim=64,
        ),
        task=PretrainConfig(queue_size=256),
        data=DataConfig(max_tokens=12),
        optim=OptimConfig(name="torch"),
        engine=EngineConfig(kind="zero", stage=2, device="cpu", ds_config=str(file)),
        train=TrainConfig(micro_batch_size=2, global_batch_size=2),
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    found = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors if tensor.numel()}
    return sum(found.values())


def held(config: RunConfig) -> dict[str, int]:
    """Bytes that this rank holds after the second backward pass, before the step, under the planner's names."""
    task, engine = make(config)
    wrapper: Any = engine
    zero = wrapper.engine.optimizer
    inner = getattr(zero, "optimizer", zero)
    found: dict[str, int] = {}
    real_step = wrapper.engine.step
    buckets = []

    def during_backward(_gradient: Tensor) -> None:
        waiting = getattr(zero, "ipg_buckets", {})
        buckets.append(_num_bytes(t for bucket in waiting.values() for t in _tensors(bucket.buffer)))

    def step() -> None:
        parameters = list(task.parameters())
        parts = [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]  # type: ignore[attr-defined]
        masters = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups", "fp32_groups_flat")
        gradients = [p.grad for p in parameters if p.grad is not None]
        gradients += _tensors([getattr(zero, name, None) for name in ("averaged_gradients", "grad_partitions_flat_buffer")])
        found["parameters"] = _num_bytes([*(p.data for p in parameters), *parts])
        found["gradients"] = _num_bytes(gradients)
        found["optimizer"] = _num_bytes(_tensors([list(inner.state.values()), [getattr(zero, m, None) for m in masters]]))
        found["momentum"] = task.momentum.num_bytes  # type: ignore[attr-defined]
        found["queue"] = _num_bytes(task.queue.buffers())
        real_step()

    batch = mock.pairs(config)
    schedule = {"alpha": config.task.alpha}
    engine.train_step([batch], schedule, 1e-4)
    handle = task.itm_head.register_forward_hook(lambda module, args, output: output.register_hook(during_backward) and None)
    wrapper.engine.step = step
    engine.train_step([batch], schedule, 1e-4)
    handle.remove()
    found["buckets"] = max(buckets)
    return found


def planned(config: RunConfig, world_size: int) -> dict[str, int]:
    """Returns the same bytes as the planner computes them."""
    counts = count(config)
    itemsize = 4 if config.engine.precision == "fp32" else 2
    sizes = (counts, training_state.Zero.of(config), itemsize, world_size)
    return {
        "parameters": training_state.parameters(*sizes),
        "gradients": training_state.gradients(*sizes),
        "optimizer": training_state.optimizer(*sizes),
        "momentum": training_state.momentum(config, counts, world_size),
        "queue": training_state.queue(config),
        "buckets": training_state.buckets(*sizes) if config.engine.stage else 0,
    }


def with_setting(config: RunConfig, stage: int, precision: str, world_size: int) -> RunConfig:
    """`config` at a stage and precision, on `world_size` ranks."""
    file = config.engine.ds_config if stage else ""
    engine = replace(config.engine, stage=stage, precision=precision, ds_config=file)
    return replace(config, engine=engine, train=TrainConfig(micro_batch_size=2, global_batch_size=2 * world_size))


def held_at_every_setting(config: RunConfig) -> dict[str, dict[str, int]]:
    """`held` per "stage precision", on the ranks that are up, the largest over the ranks."""
    results = {}
    for stage, precision in SETTINGS:
        own = held(with_setting(config, stage, precision, comm.world_size()))
        results[f"{stage} {precision}"] = own
    return results
