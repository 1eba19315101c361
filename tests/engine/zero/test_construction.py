"""Under ZeRO-3 no rank ever holds the full model, and its initial weights are the same as at other stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from albef_ds.checkpoint.initial.load import load_initial_weights
from albef_ds.checkpoint.names import timm_name
from albef_ds.common import comm
from albef_ds.config.schema import InitConfig, RunConfig
from albef_ds.engine import build
from albef_ds.engine.zero import internals
from albef_ds.engine.zero.setup import init_distributed
from albef_ds.models.random_weights import initialise
from tests.distributed import run_ranks
from tests.engine.zero.common import tiny_batch, tiny_config


class _LargestWhole:
    """Returns the largest number of elements in full parameters after any module's constructor."""

    def __init__(self) -> None:
        self.elements = 0
        self._alive: list[nn.Parameter] = []
        self._register = nn.Module.register_parameter

    def __enter__(self) -> _LargestWhole:
        def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            self._register(module, name, parameter)
            if parameter is not None:
                self._alive.append(parameter)
                self.elements = max(self.elements, sum(p.numel() for p in {id(p): p for p in self._alive}.values()))

        nn.Module.register_parameter = register  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        nn.Module.register_parameter = self._register  # type: ignore[method-assign]


def _config(stage: int, vit_file: str) -> RunConfig:
    config = tiny_config()
    text = replace(config.model.text, frozen=True, dropout=0.0)
    return replace(
        config,
        model=replace(config.model, text=text),
        compute=replace(config.compute, wide_losses="sliced" if stage == 3 else "plain"),
        engine=replace(config.engine, stage=stage),
        init=InitConfig(visual_encoder=vit_file, text_encoder="scratch"),
        train=replace(config.train, micro_batch_size=2, global_batch_size=2 * comm.world_size()),
    )


def _construct(vit_file: str) -> dict[str, Any]:
    """Returns per stage: student and momentum weights after construction, and the elements on this rank."""
    init_distributed(torch.device("cpu"))
    found: dict[str, Any] = {}
    for stage in (2, 3):
        config = _config(stage, vit_file)
        with _LargestWhole() as largest:
            task = build.build_task(config, "fp32")
        lines = load_initial_weights(task, config)
        build.attach_momentum(task, config)
        found[f"held {stage}"] = sum(parameter.numel() for parameter in task.parameters())
        found[f"largest {stage}"] = largest.elements
        found[f"report {stage}"] = lines[0]
        found[f"momentum {stage}"] = task.momentum.full_state_dict()
        if stage == 3:
            found["parts"] = sum(internals.local_part(parameter).numel() for parameter in task.parameters())
            found["whole"] = sum(internals.PartitionedParameters().shape(p).numel() for p in task.parameters())
            found["count"] = len(list(task.parameters()))
        engine = build.build_engine(task, config, torch.device("cpu"), "fp32")
        found[f"student {stage}"] = engine.full_state_dict()
        task.train()
        result = engine.train_step([tiny_batch(comm.rank(), 2)], {"alpha": 0.4, "random_negatives": 0.0}, 1e-3)
        found[f"losses {stage}"] = result.losses
    return found


def test_zero_3_cuts_modules_up_as_they_are_made_and_every_topology_starts_from_the_same_weights(tmp_path: Path) -> None:
    vit_file = tmp_path / "vit.safetensors"
    donor = build.build_task(replace(tiny_config(), train=replace(tiny_config().train, seed=9)))
    names = {name: timm_name(name.removeprefix("base.albef.")) for name, _ in donor.named_parameters()}
    weights = {names[name]: p.detach() for name, p in donor.named_parameters() if "visual_encoder" in name and names[name]}
    save_file(weights, vit_file)  # type: ignore[arg-type]

    runs = {ranks: run_ranks(_construct, ranks, str(vit_file), fresh=True, timeout=300) for ranks in (1, 3)}
    reference = runs[1][0]
    for ranks, results in runs.items():
        for rank, found in enumerate(results):
            assert found["held 3"] == 0, "parameters are whole after construction"
            assert found["largest 3"] < 0.5 * found["whole"] <= 0.5 * found["largest 2"]
            assert found["whole"] / ranks <= found["parts"] < found["whole"] / ranks + found["count"]
            assert "100.0%" in found["report 3"]
            assert found["losses 3"] == pytest.approx(found["losses 2"], rel=1e-5), "a frozen text encoder, losses by slices"
            for stage in (2, 3):
                for kind in ("student", "momentum"):
                    for name, tensor in reference[f"{kind} 2"].items():
                        other = found[f"{kind} {stage}"][name]
                        assert torch.equal(other, tensor), f"{kind} {name}, stage {stage}, rank {rank} of {ranks}"


def test_weights_depend_on_seed_and_path_and_not_on_the_generator() -> None:
    task = build.build_task(tiny_config())
    names = [name for name, parameter in task.named_parameters() if parameter.dim() > 1]
    before = {name: parameter.clone() for name, parameter in task.named_parameters()}
    state = torch.get_rng_state()
    torch.manual_seed(1234)
    initialise(task, tiny_config().train.seed)
    assert all(torch.equal(parameter, before[name]) for name, parameter in task.named_parameters())
    torch.set_rng_state(state)
    initialise(task, 7)
    assert torch.equal(torch.get_rng_state(), state)
    after = dict(task.named_parameters())
    assert not any(torch.equal(after[name], before[name]) for name in names)
    blocks = [after[f"base.albef.visual_encoder.blocks.{i}.mlp.fc1.weight"] for i in range(2)]
    assert not torch.equal(*blocks), "two layers start alike"


def test_initial_weights_have_the_spread_of_bert_and_vit() -> None:
    task = build.build_task(tiny_config())
    albef = task.model
    assert abs(float(albef.text_encoder.embeddings.word.weight.detach().std()) - 0.02) < 0.002
    wider = build.build_task(replace(tiny_config(), init=InitConfig(std=0.08)))
    assert torch.equal(wider.model.vision_proj.weight, albef.vision_proj.weight * 4), "init.std"
    assert abs(float(albef.visual_encoder.blocks[0].mlp.fc1.weight.detach().std()) - 0.02) < 0.004
    assert float(albef.visual_encoder.blocks[0].mlp.fc1.bias.abs().max()) == 0.0
    assert bool((albef.multimodal_encoder.layers[0].feed_forward.output.norm.weight == 1).all())
    assert task.mlm_head.decoder.weight is albef.text_encoder.embeddings.word.weight
