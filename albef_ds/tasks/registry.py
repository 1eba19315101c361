"""The tasks that can be trained, with one record each: the only place of properties that depend on the kind of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from albef_ds.config.schema import (
    ClassificationConfig,
    PretrainConfig,
    RetrievalConfig,
    RunConfig,
    TextAssignmentConfig,
    VqaConfig,
)
from albef_ds.config.tasks import BaseTaskConfig
from albef_ds.data.sample_kinds import PAIRS, QUESTIONS, STATEMENTS, SampleKind
from albef_ds.tasks import evaluators
from albef_ds.tasks.base import Task
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.evaluators import Evaluation
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.tasks.retrieval import RetrievalTask
from albef_ds.tasks.text_assignment import TextAssignmentTask
from albef_ds.tasks.transfer import answer_decoder, image_projection, unchanged
from albef_ds.tasks.vqa import VqaTask


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """The properties of one kind of task."""

    settings: type[BaseTaskConfig]
    """A member of the union `config.tasks.TaskConfig`; its `kind` is the name, its `main_metrics` choose the checkpoint."""
    task: Callable[..., Task]
    """Takes (model, compute, task settings, seed)."""
    samples: SampleKind
    """The training samples."""
    evaluation: Evaluation | None = None
    """None: the task is not evaluated."""
    evaluation_with_refs: Evaluation | None = None
    """Replaces `evaluation` if `data.refs` names referring expressions (grounding)."""
    new_heads: tuple[str, ...] = ()
    """Prefixes of parameter names that start with random weights if `init.checkpoint` lacks them."""
    transfer: Callable[[dict[str, Any], Any], dict[str, Any]] = unchanged
    """Maps another task's state dict, with these settings, to initial weights under this task's names."""
    uses: tuple[str, ...] = ()
    """Methods of `albef_ds.load(...)` for which it is trained; empty if it only serves fine-tuning."""

    @property
    def name(self) -> str:
        """`task.kind`."""
        return str(vars(self.settings)["kind"])


_TWO_TOWERS = ("encode_image", "encode_text", "match", "ground")

_KINDS = (
    TaskKind(settings=PretrainConfig, task=PretrainTask, samples=PAIRS, evaluation=evaluators.RETRIEVAL, uses=_TWO_TOWERS),
    TaskKind(
        settings=RetrievalConfig,
        task=RetrievalTask,
        samples=PAIRS,
        evaluation=evaluators.RETRIEVAL,
        evaluation_with_refs=evaluators.GROUNDING,
        uses=_TWO_TOWERS,
    ),
    TaskKind(
        settings=ClassificationConfig,
        task=ClassificationTask,
        samples=STATEMENTS,
        evaluation=evaluators.CLASSIFICATION,
        new_heads=("base.cls_head.",),
        uses=("classify",),
    ),
    TaskKind(
        settings=TextAssignmentConfig, task=TextAssignmentTask, samples=PAIRS, new_heads=("ta_head.",), transfer=image_projection
    ),
    TaskKind(
        settings=VqaConfig,
        task=VqaTask,
        samples=QUESTIONS,
        evaluation=evaluators.VQA,
        new_heads=("base.decoder.",),
        transfer=answer_decoder,
        uses=("answer",),
    ),
)
TASKS: dict[type[BaseTaskConfig], TaskKind] = {kind.settings: kind for kind in _KINDS}
"""Maps each class of settings to the record of its task."""


def kind_of(settings: BaseTaskConfig) -> TaskKind:
    """Returns the record of the task with these settings."""
    return TASKS[type(settings)]


def evaluation_of(config: RunConfig) -> Evaluation | None:
    """Returns the evaluation of the run's task, or None."""
    kind = kind_of(config.task)
    return (kind.evaluation_with_refs if config.data.refs else None) or kind.evaluation
