"""The tasks that can be trained, by the class of their settings."""

from __future__ import annotations

from collections.abc import Callable

from albef_ds.config.schema import (
    ClassificationConfig,
    PretrainConfig,
    RetrievalConfig,
    TextAssignmentConfig,
    VqaConfig,
)
from albef_ds.tasks.base import Task
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.tasks.retrieval import RetrievalTask
from albef_ds.tasks.text_assignment import TextAssignmentTask
from albef_ds.tasks.vqa import VqaTask

TASKS: dict[type, Callable[..., Task]] = {
    PretrainConfig: PretrainTask,
    RetrievalConfig: RetrievalTask,
    ClassificationConfig: ClassificationTask,
    TextAssignmentConfig: TextAssignmentTask,
    VqaConfig: VqaTask,
}
"""The task of each kind of settings; all are made from (model, compute, task settings, seed)."""
