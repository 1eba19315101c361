"""Checkpoints of any ZeRO stage and number of ranks become one file and models again, without those ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef_ds.checkpoint.formats.read import fill_task, read_model
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.common.errors import WeightsError
from albef_ds.config.schema import RunConfig
from albef_ds.engine.build import attach_momentum, build_task
from albef_ds.inference import model as interface
from tests.checkpoint.common import config_for, leg
from tests.checkpoint.formats.released_files import same
from tests.distributed import run_ranks

HEADS = ("model.vision.num_heads=2", "model.text.num_heads=2")


def _config(stage: int, ranks: int) -> RunConfig:
    """Two layers of everything on one and two ranks; one layer on four, which gather each tensor in many small messages."""
    config = config_for(stage)
    if ranks < 4:
        return config
    vision, text = replace(config.model.vision, depth=1), replace(config.model.text, num_layers=1, num_fusion_layers=1)
    return replace(config, model=replace(config.model, vision=vision, text=text))


def _runs(output: str, stages: list[int], ranks: int) -> dict[str, Any]:
    """One step and a checkpoint at each stage; what the run held."""
    return {str(stage): leg(Path(output) / f"stage-{stage}", _config(stage, ranks), 1) for stage in stages}


def _filled(stage: int, ranks: int, path: Path) -> dict[str, Tensor]:
    """Every weight of a run of one process that starts from `path`."""
    config, local = _config(stage, ranks), _config(-1, ranks)
    task = build_task(local)
    attach_momentum(task, local)
    fill_task(task, read_model(path).model)
    assert task.config == config.task
    student = {f"student.{name}": tensor.detach() for name, tensor in task.named_parameters()}
    return student | {f"momentum.{name}": tensor for name, tensor in task.momentum.parameters()}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_checkpoint_of_every_stage_becomes_one_file_and_the_same_weights_again(tmp_path: Path, ranks: int) -> None:
    stages = [1, 2, 3] if ranks < 4 else [3, 1, 2]
    held = run_ranks(_runs, ranks, str(tmp_path), stages, ranks, timeout=600, fresh=True)[0]
    for stage in stages:
        run, one_file = tmp_path / f"stage-{stage}", tmp_path / f"stage-{stage}.safetensors"
        found = read_model(run)
        assert (found.form, found.path.parent.parent) == ("checkpoint", run)
        convert(found, one_file, Options("safetensors"))
        state = held[str(stage)]["state"]
        weights = {name: tensor for name, tensor in state.items() if name.startswith(("student.", "momentum."))}
        assert same(_filled(stage, ranks, one_file), weights), f"stage {stage}, {ranks} ranks"
        model = read_model(one_file).model
        for name in ("images", "texts", "image_ids", "caption_ids"):
            assert torch.equal(model.tensors[f"queue.{name}"].read(), state[f"queue.{name}"])
        assert int(model.tensors["queue.filled"].read()) == held[str(stage)]["filled"] > 0
        assert model.lineage[0]["what"] == "trained with albef_ds" and model.lineage[0]["step"] == 1
    features = interface.load(tmp_path / "stage-3", device="cpu").encode_image(torch.zeros(3, 16, 16))
    assert features.shape == (1, 17)
    if ranks == 1:
        _released_and_back(tmp_path)
        _damage_is_refused(tmp_path / "stage-2")


def _released_and_back(folder: Path) -> None:
    released, again = folder / "released.pth", folder / "again.safetensors"
    convert(read_model(folder / "stage-2"), released, Options("released"))
    convert(read_model(released, HEADS), again, Options("safetensors"))
    ours, theirs = read_model(folder / "stage-2").model, read_model(again).model
    for name, tensor in ours.tensors.items():
        if name not in ("queue.image_ids", "queue.caption_ids", "queue.filled"):  # the released form has no room for them
            assert torch.equal(tensor.read(), theirs.tensors[name].read()), name


def _damage_is_refused(run: Path) -> None:
    [path] = run.glob("checkpoints/step-*/student.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"student\.safetensors has another checksum"):
        read_model(path.parent)
