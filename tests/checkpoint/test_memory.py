"""Memory of saves: given out again after a reset, and ready before the first save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef_ds.checkpoint import memory
from albef_ds.checkpoint.memory import SaveMemory
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.snapshot import snapshot_bytes
from albef_ds.checkpoint.tensor_files.opening import open_tensors
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.config.schema import RunConfig
from tests.checkpoint.common import config_for, state_of, train
from tests.engine.zero.common import make

TENSORS = [
    torch.arange(5.0),
    torch.tensor(3),
    torch.ones(0, 4),
    torch.arange(700, dtype=torch.float64).view(7, 100).t(),
    torch.arange(3, dtype=torch.uint8),
    torch.randn(30, 2, dtype=torch.bfloat16),
]


def test_copies_are_equal_apart_from_each_other_and_in_the_same_memory_after_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_BLOCK", 1000)
    kept = SaveMemory()
    kept.prepare(2500)
    places = []
    for factor in (1, 2):
        kept.reset()
        copies = [kept.copy(tensor * factor) for tensor in TENSORS]
        for ours, given in zip(copies, TENSORS, strict=True):
            assert torch.equal(ours, given * factor) and ours.dtype == given.dtype and ours.is_contiguous()
        places.append([copy.data_ptr() for copy in copies if copy.numel()])
        size = kept.nbytes
    assert places[0] == places[1] and size == 2500 + 5600, "one tensor is larger than a block"
    kept.release()
    assert kept.nbytes == 0


def _saved(saver: Saver, config: RunConfig, task_and_engine: tuple, progress: TrainingProgress) -> dict[str, Tensor]:  # type: ignore[type-arg]
    task, engine = task_and_engine
    train(config, task, engine, progress, progress.step + 1)
    saver.start(engine, task, progress, [])
    result = saver.finish()
    assert result is not None and not result.error
    stored = {name: lazy.read() for name, lazy in open_tensors(result.folder / "exp_avg.safetensors").tensors.items()}
    for name, tensor in state_of(task, engine)["state"].items():
        if name.startswith("exp_avg."):
            assert torch.equal(stored[name.removeprefix("exp_avg.")], tensor)
    return stored


def test_later_saves_use_the_memory_of_the_first_one(tmp_path: Path) -> None:
    config = config_for(-1)
    made, saver, progress = make(config), Saver(tmp_path, config), TrainingProgress(config.train)
    saver.root.mkdir()
    saver.prepare(made[0])
    assert saver._memory.nbytes == snapshot_bytes(made[0]) > 10_000
    _saved(saver, config, made, progress)
    size = saver._memory.nbytes
    _saved(saver, config, made, progress)
    assert saver._memory.nbytes == size


def test_a_run_that_waits_for_its_saves_keeps_no_memory(tmp_path: Path) -> None:
    config = config_for(-1)
    config = replace(config, train=replace(config.train, save_in_background=False))
    made, saver = make(config), Saver(tmp_path, config)
    saver.root.mkdir()
    saver.prepare(made[0])
    _saved(saver, config, made, TrainingProgress(config.train))
    assert saver._memory.nbytes == 0
