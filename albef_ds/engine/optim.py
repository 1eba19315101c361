"""Parameter groups and the learning-rate schedule. The engine chooses the implementation of AdamW."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from albef_ds.config.schema import OptimConfig

# The released code decays these, though decaying a temperature or a position table towards 0 makes no sense.
_SPECIAL = ("temperature", "cls_token", "pos_embed")


def parameter_groups(module: nn.Module, config: OptimConfig, *, compat: bool = False) -> list[dict[str, Any]]:
    """Returns the trainable parameters in two groups: matrices with weight decay, all others without.

    The others are biases, norms, class token, position table and temperature; with `compat` the last three decay, as in the
    released code.
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.rsplit(".", 1)[-1] in _SPECIAL:
            (decay if compat else no_decay).append(parameter)
        else:
            # ZeRO-3 replaces the tensor by this rank's flat part and keeps its shape in an attribute.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (decay if len(shape) > 1 else no_decay).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def learning_rate(config: OptimConfig, samples: float, total_samples: float) -> float:
    """Returns the learning rate after `samples` of `total_samples`: linear warm-up, then a cosine to the final rate."""
    if samples < config.warmup_samples:
        share = samples / config.warmup_samples
        return config.initial_learning_rate + share * (config.learning_rate - config.initial_learning_rate)
    share = min(1.0, (samples - config.warmup_samples) / max(1.0, total_samples - config.warmup_samples))
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1.0 + math.cos(math.pi * share)) / 2.0
