"""The records of the tasks are complete: there is one for each class of settings, and all names in them exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig, TaskConfig, TextAssignmentConfig
from albef_ds.engine.build import build_task
from albef_ds.evaluation.evaluate import check_validation, evaluate
from albef_ds.inference.model import AlbefModel
from albef_ds.tasks import evaluators
from albef_ds.tasks.registry import TASKS, TaskKind, evaluation_of, kind_of
from tests.data_tools.scenes.tiny import tiny_config


def test_each_class_of_settings_has_one_record() -> None:
    assert set(TASKS) == set(get_args(TaskConfig))
    assert {kind.name for kind in TASKS.values()} == {settings().kind for settings in get_args(TaskConfig)}
    assert all(kind_of(settings()).settings is settings for settings in get_args(TaskConfig))


@pytest.mark.parametrize("kind", TASKS.values(), ids=lambda kind: kind.name)
def test_uses_are_methods_and_a_task_with_an_evaluation_has_a_main_metric(kind: TaskKind) -> None:
    assert all(callable(getattr(AlbefModel, use)) for use in kind.uses)
    assert (kind.evaluation is not None) == bool(kind.settings.main_metrics)


@pytest.mark.parametrize(
    "recipe", ["scenes_pretrain", "scenes_retrieval", "scenes_vqa", "scenes_nlvr", "scenes_entailment", "scenes_nlvr_pretrain"]
)
def test_heads_that_may_be_new_are_parameters(recipe: str, scenes: Path) -> None:
    config = tiny_config(recipe, scenes)
    names = [name for name, _ in build_task(config).named_parameters()]
    assert all(any(name.startswith(head) for name in names) for head in kind_of(config.task).new_heads)


def test_expressions_are_grounded_by_the_task_that_has_a_record_for_them(scenes: Path) -> None:
    grounding, retrieval = tiny_config("scenes_grounding", scenes), tiny_config("scenes_retrieval", scenes)
    assert evaluation_of(grounding) is evaluators.GROUNDING and evaluation_of(retrieval) is evaluators.RETRIEVAL
    assert evaluation_of(replace(grounding, task=RunConfig().task)) is evaluators.RETRIEVAL


def test_a_task_without_evaluation_says_so_before_it_trains(scenes: Path) -> None:
    config = tiny_config("scenes_nlvr_pretrain", scenes, f"data.eval_annotations={scenes}/nlvr_dev.json")
    assert isinstance(config.task, TextAssignmentConfig)
    with pytest.raises(ConfigError, match=r"task\.kind=text_assignment has no evaluation"):
        check_validation(config)
    with pytest.raises(ConfigError, match="has no evaluation"):
        evaluate(build_task(config), config, torch.device("cpu"), config.data.eval_annotations)
