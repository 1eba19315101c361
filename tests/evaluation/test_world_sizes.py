"""Every task's metrics are bitwise equal on 1, 2 and 4 ranks and count each sample once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.engine.build import build_task
from albef_ds.evaluation.evaluate import evaluate
from albef_ds.metrics.scores import EvaluationOptions
from tests.data_tools.scenes.tiny import tiny_config
from tests.distributed import run_ranks

RECIPES = ("scenes_retrieval", "scenes_vqa", "scenes_nlvr", "scenes_entailment", "scenes_grounding")
NUM_TEST = {
    "scenes_retrieval": ("retrieval/num_images", 12),
    "scenes_vqa": ("vqa/num_questions", 15),
    "scenes_nlvr": ("classification/num_samples", 14),
    "scenes_entailment": ("classification/num_samples", 15),
}
"""Sizes of the test files, most of them not divisible by the batch size 4."""


def scores(scenes: str) -> dict[str, Any]:
    """Metrics and predictions of every task with untrained weights, in batches of 4."""
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        config = tiny_config(recipe, Path(scenes))
        task = build_task(config)
        result = evaluate(task, config, torch.device("cpu"), config.data.test_annotations)
        found[recipe] = (result.metrics, str(result.predictions))
    config = tiny_config("scenes_vqa", Path(scenes))
    written = evaluate(
        build_task(config), config, torch.device("cpu"), config.data.test_annotations, options=EvaluationOptions(generate=True)
    )
    found["generated"] = (written.metrics, str(written.predictions))
    return found


@pytest.fixture(scope="module")
def alone(scenes: Path) -> dict[str, Any]:
    return scores(str(scenes))


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_ranks_gives_the_same_metrics_and_predictions(world_size: int, scenes: Path, alone: dict[str, Any]) -> None:
    for rank in run_ranks(scores, world_size, str(scenes), timeout=600.0):
        assert rank == alone


def test_each_sample_counts_once(alone: dict[str, Any]) -> None:
    for recipe, (name, count) in NUM_TEST.items():
        assert alone[recipe][0][name] == count
    grounding = alone["scenes_grounding"][0]
    assert sum(value for name, value in grounding.items() if name.endswith("_num")) == 15
    assert grounding["grounding/testA_chance"] == pytest.approx(100 / 3)
