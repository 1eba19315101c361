"""The example of docs/adding_a_task.md, taken from the page, trains."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.common.errors import UserError
from albef_ds.config import files, settings, tasks
from albef_ds.config.schema import ComputeConfig, OptimConfig
from albef_ds.data.sample_kinds import PAIRS
from albef_ds.engine.build import build_task
from albef_ds.engine.local import LocalEngine
from albef_ds.tasks.registry import TASKS, TaskKind
from tests.tasks.tiny import random_batch, tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_task.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's Python code as a module."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL))
    module = types.ModuleType("added_task")
    monkeypatch.setitem(sys.modules, "added_task", module)  # dataclasses look their module up
    exec(compile(code, str(PAGE), "exec"), module.__dict__)  # it is our own page
    return module


def test_the_loss_falls(example: Any) -> None:
    torch.manual_seed(0)
    task = example.InBatchContrastTask(tiny_model(), ComputeConfig(), example.InBatchContrastConfig())
    engine = LocalEngine(task, OptimConfig(weight_decay=0.0), torch.device("cpu"))
    batch = random_batch(6, duplicates=False, dtype=torch.float32)
    results = [engine.train_step([batch], task.schedule(0.0), learning_rate=3e-3) for _ in range(40)]
    assert results[-1].losses["contrast"] < 0.5 * results[0].losses["contrast"]
    assert results[-1].metrics["accuracy"] == 1.0


def test_two_lines_in_tables_make_it_a_task_of_the_system(example: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    from albef_ds.config.recipes.debug import debug

    config = replace(debug(), task=example.InBatchContrastConfig(temperature=0.2))
    record = TaskKind(settings=example.InBatchContrastConfig, task=example.InBatchContrastTask, samples=PAIRS)
    monkeypatch.setitem(TASKS, example.InBatchContrastConfig, record)
    assert isinstance(build_task(config), example.InBatchContrastTask)
    files.save(config, tmp_path / "config.json")
    with pytest.raises(UserError, match="in_batch_contrast"):
        files.load(tmp_path / "config.json")
    kinds = {**settings.task_types(), "in_batch_contrast": example.InBatchContrastConfig}
    for module in (settings, files):
        monkeypatch.setattr(module, "task_types", lambda: kinds)
    assert files.load(tmp_path / "config.json") == config
    assert tasks.BaseTaskConfig in example.InBatchContrastConfig.__mro__


def test_a_temperature_of_nothing_is_refused_by_its_name(example: Any) -> None:
    with pytest.raises(UserError, match=r"task\.temperature is 0"):
        example.InBatchContrastConfig(temperature=0.0)
