"""The example of docs/adding_a_task.md, taken from the page, is a task of the system once its record is added."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import albef_ds
from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.config import files, schema, settings
from albef_ds.config.schema import ComputeConfig, OptimConfig, RunConfig
from albef_ds.engine.build import build_task
from albef_ds.engine.local import LocalEngine
from albef_ds.tasks.registry import TASKS
from tests.data_tools.scenes.tiny import tiny_config
from tests.tasks.tiny import random_batch, tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_task.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's Python code as a module."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL))
    code = code.replace("from __future__ import annotations\n", "", 1)
    module = types.ModuleType("added_task")
    monkeypatch.setitem(sys.modules, "added_task", module)  # dataclasses look their module up
    exec(compile("from __future__ import annotations\n" + code, str(PAGE), "exec"), module.__dict__)  # it is our own page
    return module


@pytest.fixture
def added(example: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, its settings in the union `TaskConfig` and its record in the registry: what the page says to add."""
    caches = (settings.task_types, settings.all_settings)
    monkeypatch.setattr(schema, "TaskConfig", schema.TaskConfig | example.InBatchContrastConfig)
    monkeypatch.setitem(TASKS, example.InBatchContrastConfig, example.IN_BATCH_CONTRAST)
    for cache in caches:
        cache.cache_clear()
    yield example
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def run_config(example: Any, scenes: Path, output: Path) -> RunConfig:
    """Three steps of the example on annotated scenes, saved and evaluated after each."""
    steps = [f"train.{name}" for name in ("max_steps=3", "save_every=1", "eval_every=1", "log_every=1", "eval_pictures=2")]
    config = tiny_config("scenes_retrieval", scenes, "model.vision.stem=patch", *steps)
    return replace(config, output=str(output), task=example.InBatchContrastConfig(temperature=0.2))


def test_the_loss_falls(example: Any) -> None:
    torch.manual_seed(0)
    task = example.InBatchContrastTask(tiny_model(), ComputeConfig(), example.InBatchContrastConfig())
    engine = LocalEngine(task, OptimConfig(weight_decay=0.0), torch.device("cpu"))
    batch = random_batch(6, duplicates=False, dtype=torch.float32)
    results = [engine.train_step([batch], task.schedule(0.0), learning_rate=3e-3) for _ in range(40)]
    assert results[-1].losses["contrast"] < 0.5 * results[0].losses["contrast"]
    assert results[-1].metrics["accuracy"] == 1.0


def test_commands_train_evaluate_list_inspect_and_convert_it(
    added: Any, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", tmp_path / "config.json"
    files.save(run_config(added, scenes, run), config)
    assert main(["train", "--config", str(config), "task.temperature=0.1"]) == 0
    assert files.load(run / "config.json").task == added.InBatchContrastConfig(temperature=0.1)
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(record["loss_contrast"] > 0.0 for record in log if record["kind"] == "step")
    assert sum("retrieval/mean_recall" in record for record in log) == 3
    assert main(["evaluate", str(run)]) == 0
    scores = json.loads((run / "metrics.json").read_text())
    validation = {name: metrics["retrieval/mean_recall"] for name, metrics in scores["validation"].items()}
    assert len(validation) == 3 and validation[scores["checkpoint"]] == max(validation.values())
    assert scores["protocol"]["chosen_by"] == "retrieval/mean_recall"
    assert scores["splits"]["retrieval_test"]["retrieval/num_images"] == 12.0
    capsys.readouterr()
    assert main(["runs", str(tmp_path)]) == 0 and "  retrieval/mean_recall " in capsys.readouterr().out
    assert main(["inspect", str(run)]) == 0
    said = capsys.readouterr().out
    assert "serves       fine-tuning" in said and "not released (a model of kind in_batch_contrast has no released form)" in said
    assert main(["convert", str(run), str(tmp_path / "model"), "--to", "folder"]) == 0
    assert isinstance(albef_ds.load(tmp_path / "model").task, added.InBatchContrastTask)


def test_its_weights_start_another_task_which_leaves_its_heads(
    added: Any, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_config(added, scenes, tmp_path / "first")
    settings = ("model.vision.stem=patch", "train.max_steps=1", f"init.checkpoint={tmp_path}/first")
    second = tiny_config("scenes_entailment", scenes, *settings)
    for number, config in enumerate((first, replace(second, output=str(tmp_path / "second")))):
        files.save(config, tmp_path / f"{number}.json")
        assert main(["train", "--config", str(tmp_path / f"{number}.json")]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert all(name in line for name in ("random weights in cls_head", "temperature", "vision_proj", "text_proj"))


def test_without_its_record_or_its_place_in_the_union_it_is_no_task(example: Any, scenes: Path, tmp_path: Path) -> None:
    config = run_config(example, scenes, tmp_path)
    with pytest.raises(KeyError):
        build_task(config)
    files.save(config, tmp_path / "config.json")
    with pytest.raises(ConfigError, match="in_batch_contrast"):
        files.load(tmp_path / "config.json")


def test_a_temperature_of_nothing_is_refused_by_its_name(example: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.temperature is 0"):
        example.InBatchContrastConfig(temperature=0.0)
