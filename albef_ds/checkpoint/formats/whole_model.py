"""A whole model, independent of the storage format: configuration, tensors under our names, lineage.

Student tensors have the task's parameter names (`base.albef. ...`, `itm_head. ...`); those of the momentum copy begin with
`momentum.` instead of `base.`, those of the feature queue with `queue.`. A tied tensor is held once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from albef_ds.checkpoint.fill import Rules, check_fit
from albef_ds.checkpoint.names import BASE, MOMENTUM, PAIRED, QUEUE, RELEASED, NamedTensors
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ComputeConfig, DataConfig, ModelConfig, RunConfig
from albef_ds.config.tasks import TaskConfig
from albef_ds.models.shapes import without_memory
from albef_ds.tasks.registry import kind_of

Weights = Literal["student", "momentum", "both"]
COMPLETE = "fetch it again, or give the settings it was made with, as section.field=value"
"""The fix for a source that does not have exactly the tensors of its model."""


@dataclass(frozen=True)
class WholeModel:
    """A model as described in the module's docstring."""

    config: RunConfig
    tensors: dict[str, LazyTensor]
    lineage: tuple[dict[str, Any], ...] = ()
    """Steps since the training, oldest first; plain JSON."""
    source_names: dict[str, str] = field(default_factory=dict)
    """Our name -> the name in the source, if it differs."""
    unused: tuple[str, ...] = ()
    """Names in the source that no model needs."""
    remarks: tuple[str, ...] = ()
    """Assumptions and changes."""
    layout: dict[str, bool] = field(default_factory=dict)
    """Layout of the released file (`wrapped`, `bert`), so that it can be written again identically."""

    @property
    def kind(self) -> str:
        """`task.kind`."""
        return str(self.config.task.kind)

    @property
    def table(self) -> str:
        """The key of the model's rows in `TABLES` of `names.py`."""
        return PAIRED.get(self.kind, self.kind) if self.config.task.paired_layers else self.kind

    def part(self, prefix: str) -> dict[str, LazyTensor]:
        """The tensors whose names begin with `prefix`."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    @property
    def student(self) -> dict[str, LazyTensor]:
        """The task's parameters."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith((MOMENTUM, QUEUE, RELEASED))}

    @property
    def momentum(self) -> dict[str, LazyTensor]:
        """The momentum copy under the student's names; empty without one."""
        return {BASE + name.removeprefix(MOMENTUM): tensor for name, tensor in self.part(MOMENTUM).items()}

    @property
    def parameters(self) -> int:
        """Number of elements in the student."""
        return sum(tensor.numel for tensor in self.student.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def select(self, weights: Weights, queues: bool) -> WholeModel:
        """A copy with `student` or `momentum` weights (the latter under the student's names) or both, and with or without queues.

        Raises ConfigError for the momentum copy of a model without one.
        """
        if weights == "momentum" and not self.momentum:
            raise ConfigError("the source has no momentum copy: take the weights of the student")
        kept = dict(self.tensors)
        if weights != "both":
            kept = {name: tensor for name, tensor in kept.items() if not name.startswith(MOMENTUM)}
        if weights == "momentum":
            kept |= self.momentum
        if not queues:
            kept = {name: tensor for name, tensor in kept.items() if not name.startswith(QUEUE)}
        return replace(self, tensors=kept)

    def cast(self, dtype: torch.dtype | None) -> WholeModel:
        """A copy with weights and queue in `dtype`; None keeps them. Integers are unchanged."""
        if dtype is None:
            return self
        return replace(self, tensors={name: tensor.to(dtype) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Shapes:
    """Names and shapes of a model's tensors."""

    student: dict[str, tuple[int, ...]]
    momentum: dict[str, tuple[int, ...]]
    """Under our names, with prefix `momentum.`; a source may lack this copy."""


def shapes_of(config: RunConfig) -> Shapes:
    """Names and shapes of the student's and the momentum copy's tensors, computed without allocating them."""
    return _shapes(config.model, config.task.without_queue())


@lru_cache(maxsize=8)
def _shapes(model: ModelConfig, settings: TaskConfig) -> Shapes:
    with without_memory(), torch.random.fork_rng(devices=[]):
        task = kind_of(settings).task(model, ComputeConfig(), settings, seed=0)
    student = {name: tuple(parameter.shape) for name, parameter in task.named_parameters()}
    copy = {name.replace(BASE, MOMENTUM, 1): shape for name, shape in student.items() if name.startswith(BASE)}
    return Shapes(student, copy)


def check_complete(model: WholeModel, source: str) -> None:
    """Raises WeightsError, which names `source`, tensors and fix, if a tensor is missing, left over or of another shape."""
    expected = shapes_of(model.config)
    weights = model.student | model.part(MOMENTUM)
    shapes = expected.student | (expected.momentum if model.part(MOMENTUM) else {})
    check_fit(shapes, NamedTensors(weights, model.source_names), source, Rules(COMPLETE))


def portable(config: RunConfig) -> RunConfig:
    """The machine-independent part of `config`: the model, the task and the preparation of texts and images."""
    kept = ("max_words", "max_tokens", "eval_max_words", "eval_max_tokens", "compat", "sep_token", "max_pixels", "vocab_file")
    data = DataConfig(**{name: getattr(config.data, name) for name in kept})
    return replace(RunConfig(), recipe=config.recipe, model=config.model, task=config.task, data=data)
