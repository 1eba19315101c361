"""Measures what autograd keeps of one real forward pass: distinct storages saved for backward, without parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from albef_ds.config.schema import RunConfig
from albef_ds.data import mock
from albef_ds.engine import build
from albef_ds.models import bert, vit


def saved_bytes(config: RunConfig) -> int:
    """Bytes that the forward pass of `config` leaves for the backward pass, the queue full, on the CPU.

    What a checkpointed layer is given counts as well: torch's recomputation keeps it in a closure, out of the hooks' sight.
    """
    dtype = torch.float32 if config.engine.precision == "fp32" else torch.bfloat16
    task = build.build_task(config).to(dtype)
    build.attach_momentum(task, config)
    task.momentum.to(torch.device("cpu"))
    task.queue.filled = task.queue.size
    task.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in task.parameters()}
    weights |= {parameter.untyped_storage().data_ptr() for parameter in task.momentum.modules.parameters()}
    saved: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())  # an address must not be given out twice while we count
        return tensor

    def run_layer(layer: torch.nn.Module, recompute: bool, *args: object) -> object:
        if recompute and torch.is_grad_enabled():
            for argument in args:
                for item in argument if isinstance(argument, list) else [argument]:
                    for tensor in (item, getattr(item, "text_embeds", None)):
                        if isinstance(tensor, Tensor):
                            pack(tensor)
        return original(layer, recompute, *args)

    original = bert.run_layer
    batch = mock.pairs(config)
    bert.run_layer = vit.run_layer = run_layer
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses, _ = task(batch, alpha=config.task.alpha)
    finally:
        bert.run_layer = vit.run_layer = original
    assert all(bool(loss.isfinite()) for loss in losses.values())
    pack(batch.images)
    return sum(saved.values())
