"""Parameter groups and the learning-rate schedule. The engine chooses the implementation of AdamW."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import OptimConfig, RunConfig
from albef_ds.models.albef import ALBEF

RELEASED_JUMP = 100
"""Steps for which the released code keeps each learning rate of its warm-up."""

# The released code decays these, though decaying a temperature or a position table towards 0 makes no sense.
_SPECIAL = ("temperature", "cls_token", "pos_embed")


def parameter_groups(module: nn.Module, config: OptimConfig, *, compat: bool = False) -> list[dict[str, Any]]:
    """Returns the trainable parameters in two groups: matrices with weight decay, all others without.

    The others are biases, norms, class token, position table and temperature; with `compat` the last three decay, as in the
    released code. With `optim.layer_decay` there are two groups per layer, and `rate` is their share of the learning rate
    (`set_learning_rate`). Raises `ConfigError` if nothing is trainable.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    rates = _rates(module, config.layer_decay)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            special = name.rsplit(".", 1)[-1] in _SPECIAL
            # ZeRO-3 replaces the tensor by this rank's flat part and keeps its shape in an attribute.
            decays = compat if special else len(getattr(parameter, "ds_shape", parameter.shape)) > 1
            groups.setdefault((rates.get(name, 1.0), decays), []).append(parameter)
    if not groups:
        raise ConfigError("no parameter of the task is trainable: leave model.vision.frozen or model.text.frozen false")
    return [
        {"params": groups[rate, decays], "weight_decay": config.weight_decay if decays else 0.0, "rate": rate}
        for rate, decays in sorted(groups, reverse=True)
    ]


def _rates(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """Returns the share of the learning rate of each parameter of an encoder by its name; heads have the whole."""
    if layer_decay == 1.0:
        return {}
    albefs = {prefix: part for prefix, part in module.named_modules() if isinstance(part, ALBEF)}
    return {
        f"{prefix}.{name}".lstrip("."): layer_decay ** albef.layers_below_top(name)
        for prefix, albef in albefs.items()
        for name, _ in albef.named_parameters()
    }


def set_learning_rate(groups: list[dict[str, Any]], learning_rate: float) -> None:
    """Sets the learning rate of an optimizer's groups, each in its share."""
    for group in groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)


class Trained:
    """The parameters that are trained: decided when an engine is built, since DeepSpeed does not follow later changes."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [(name, parameter, parameter.requires_grad) for name, parameter in module.named_parameters()]

    def check(self) -> None:
        """Raises `ConfigError` if a parameter's `requires_grad` has changed."""
        for name, parameter, trained in self._parameters:
            if parameter.requires_grad != trained:
                change = "frozen" if trained else "unfrozen"
                raise ConfigError(
                    f"parameter {name} was {change} after the engine was built, which would have no effect under ZeRO: "
                    f"set requires_grad in the task's constructor, or model.vision.frozen, model.text.frozen and "
                    "model.text.fusion_frozen"
                )


def learning_rate(config: OptimConfig, samples: float, total_samples: float) -> float:
    """Returns the learning rate after `samples` of `total_samples`: linear warm-up, then a cosine to the final rate."""
    if samples < config.warmup_samples:
        share = samples / config.warmup_samples
        return config.initial_learning_rate + share * (config.learning_rate - config.initial_learning_rate)
    share = min(1.0, (samples - config.warmup_samples) / max(1.0, total_samples - config.warmup_samples))
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1.0 + math.cos(math.pi * share)) / 2.0


def released_learning_rate(config: OptimConfig, samples: float, epoch_samples: int, epochs: float, batch: int) -> float:
    """Returns the released code's learning rate after `samples`: one per epoch, on a cosine over the epochs.

    Epoch 0 has the warm-up, in jumps of `RELEASED_JUMP` steps of `batch` samples, and then the peak; epoch e > 0 has
    min + (max - min) (1 + cos(pi e / epochs)) / 2, even if the warm-up was longer than epoch 0. (Its scheduler/cosine_lr.py with
    the calls in Pretrain.py.)
    """
    epoch = int(samples // epoch_samples)
    if epoch == 0 and samples < config.warmup_samples:
        done = samples // batch // RELEASED_JUMP * RELEASED_JUMP * batch / config.warmup_samples
        return config.initial_learning_rate + done * (config.learning_rate - config.initial_learning_rate)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1.0 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2.0


def scheduled_rate(config: RunConfig, samples: float, total_samples: float, epoch_samples: int | None) -> float:
    """Returns the learning rate of a run after `samples`: the released code's with `task.compat`, if epochs are known."""
    train = config.train
    if config.task.compat and epoch_samples and train.epochs:
        return released_learning_rate(config.optim, samples, epoch_samples, train.epochs, train.global_batch_size)
    return learning_rate(config.optim, samples, total_samples)
