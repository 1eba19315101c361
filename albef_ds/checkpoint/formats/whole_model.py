"""A whole model between two forms of storage: configuration, tensors under our names, where they came from.

Student tensors carry the task's parameter names (`base.albef. ...`, `itm_head. ...`), those of the momentum copy
`momentum.` in place of `base.`, those of the feature queue `queue.`. A tied tensor is held once.
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
from albef_ds.tasks.registry import kind_of

Weights = Literal["student", "momentum", "both"]
COMPLETE = "fetch it again, or give the settings it was made with, as section.field=value"
"""The fix where a source does not have exactly the tensors of its model."""


@dataclass(frozen=True)
class WholeModel:
    """See the module."""

    config: RunConfig
    tensors: dict[str, LazyTensor]
    lineage: tuple[dict[str, Any], ...] = ()
    """Steps from the training to here, oldest first; plain JSON."""
    source_names: dict[str, str] = field(default_factory=dict)
    """Our name -> the name in the source, where it differs."""
    unused: tuple[str, ...] = ()
    """Names in the source that no model needs."""
    remarks: tuple[str, ...] = ()
    """What was assumed or changed."""
    layout: dict[str, bool] = field(default_factory=dict)
    """How the released file was written (`wrapped`, `bert`), so that writing it again gives the same."""

    @property
    def kind(self) -> str:
        """`task.kind`."""
        return str(self.config.task.kind)

    @property
    def table(self) -> str:
        """The key of its rows in `TABLES` of `names.py`."""
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
        """The momentum copy under the student's names; empty where there is none."""
        return {BASE + name.removeprefix(MOMENTUM): tensor for name, tensor in self.part(MOMENTUM).items()}

    @property
    def parameters(self) -> int:
        """Numbers in the student."""
        return sum(tensor.numel for tensor in self.student.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def select(self, weights: Weights, queues: bool) -> WholeModel:
        """With `student` or `momentum` weights alone (the latter under the student's names) or both, and queues or none.

        Raises:
            ConfigError: the momentum copy is asked for where there is none.
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
        """With the weights in `dtype`; None keeps them. The queue follows, integers do not."""
        if dtype is None:
            return self
        return replace(self, tensors={name: tensor.to(dtype) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Shapes:
    """What a model of some configuration consists of."""

    student: dict[str, tuple[int, ...]]
    momentum: dict[str, tuple[int, ...]]
    """Under our names, `momentum.` first; whether it exists is the source's affair."""


def shapes_of(config: RunConfig) -> Shapes:
    """Names and shapes of the student's and the momentum copy's tensors, counted without memory."""
    return _shapes(config.model, config.task.without_queue())


@lru_cache(maxsize=8)
def _shapes(model: ModelConfig, settings: TaskConfig) -> Shapes:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        task = kind_of(settings).task(model, ComputeConfig(), settings, seed=0)
    student = {name: tuple(parameter.shape) for name, parameter in task.named_parameters()}
    copy = {name.replace(BASE, MOMENTUM, 1): shape for name, shape in student.items() if name.startswith(BASE)}
    return Shapes(student, copy)


def check_complete(model: WholeModel, source: str) -> None:
    """Refuse a model that lacks a tensor, holds one too many, or one of another shape.

    Raises:
        WeightsError: names `source`, the tensors and the fix.
    """
    expected = shapes_of(model.config)
    weights = model.student | model.part(MOMENTUM)
    shapes = expected.student | (expected.momentum if model.part(MOMENTUM) else {})
    check_fit(shapes, NamedTensors(weights, model.source_names), source, Rules(COMPLETE))


def portable(config: RunConfig) -> RunConfig:
    """`config` as it may travel: the model, the task and how texts and pictures are prepared, no path of the machine."""
    data = DataConfig(
        max_words=config.data.max_words,
        max_tokens=config.data.max_tokens,
        sep_token=config.data.sep_token,
        max_pixels=config.data.max_pixels,
        vocab_file=config.data.vocab_file,
    )
    return replace(RunConfig(), recipe=config.recipe, model=config.model, task=config.task, data=data)
