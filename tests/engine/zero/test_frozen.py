"""Frozen parts and layer-wise learning rates: every ZeRO stage equals the plain engine, and resuming goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.common import comm
from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig
from albef_ds.engine import build
from albef_ds.engine.zero.setup import deepspeed_config
from tests.checkpoint.common import leg
from tests.distributed import run_ranks
from tests.engine.zero.common import CPU, make, micro_batches, run_steps, tiny_config, with_engine
from tests.tasks.finetuning import run_task, task_config

STEPS = 3
WEIGHT_BOUND = 2e-4
PARTS = {"image": "visual_encoder.", "text": "text_encoder.", "fusion": "multimodal_encoder."}
STAGES = (1, 2, 3)
RESUMED = (2, 3)


def frozen(config: RunConfig, parts: tuple[str, ...], layer_decay: float = 0.6) -> RunConfig:
    """Returns `config` with these parts frozen, and layer-wise learning rates."""
    vision = replace(config.model.vision, frozen="image" in parts)
    text = replace(config.model.text, frozen="text" in parts, fusion_frozen="fusion" in parts)
    model = replace(config.model, vision=vision, text=text)
    return replace(config, model=model, optim=replace(config.optim, layer_decay=layer_decay))


ALL = tuple(PARTS)
CASES = [(("image",), 1), (("image",), 2), (("fusion",), 3), (ALL, 2), (ALL, 3)]
"""Parts, and the ZeRO stage."""
FINETUNED = {"retrieval": ("image",), "nlvr2": ("image", "fusion"), "text assignment": ("image",), "vqa": ("fusion",)}
"""Task, and its frozen parts at stage 3."""


def _started(config: RunConfig) -> dict[str, torch.Tensor]:
    return make(with_engine(config, kind="local", momentum_storage="dense"))[1].full_state_dict()


def _unmoved(parts: tuple[str, ...], before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, bool]:
    """For each parameter of a frozen part, whether it is the same to the bit."""
    prefixes = tuple(f"base.albef.{PARTS[part]}" for part in parts)
    return {name: torch.equal(tensor, after[name]) for name, tensor in before.items() if name.startswith(prefixes)}


def _changed_later(config: RunConfig) -> str:
    """Returns the error of a step after a parameter was unfrozen, and of one after another was frozen."""
    task, engine = make(config)
    messages = []
    for parameter in (task.model.visual_encoder.norm.bias, task.model.text_proj.bias):
        parameter.requires_grad_(not parameter.requires_grad)
        try:
            engine.train_step(micro_batches(config, 0), {"alpha": 0.4}, 1e-3)
        except ConfigError as error:
            messages.append(str(error))
        parameter.requires_grad_(not parameter.requires_grad)
    engine.train_step(micro_batches(config, 0), {"alpha": 0.4}, 1e-3)
    return "\n".join(messages)


class _WithScalar(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))


def _without_dimensions() -> str:
    """Returns the errors of a task whose parameter has no dimension, at stages 2 and 3."""
    from albef_ds.engine.zero import construction  # start-up: DeepSpeed reads the environment of the ranks

    config = with_engine(tiny_config(), stage=2)
    task = build.build_task(config, "fp32")
    task.own = _WithScalar()
    messages = []
    with pytest.raises(ConfigError) as error:
        build.build_engine(task, config, CPU, "fp32")
    messages.append(str(error.value))
    ds_config = deepspeed_config(with_engine(config, stage=3), "fp32", comm.world_size())
    with pytest.raises(ConfigError) as error, construction.partitioned(ds_config):
        _WithScalar()
    return "\n".join([*messages, str(error.value)])


def _under_zero(folder: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for parts, stage in CASES:
        config = with_engine(frozen(tiny_config(), parts), stage=stage)
        results[f"{parts}, stage {stage}"] = run_steps(config, STEPS)
    for name, parts in FINETUNED.items():
        results[name] = run_task(name, with_engine(frozen(task_config(name), parts), stage=3))
    results["scalar"] = _without_dimensions()
    for stage in STAGES:
        config = with_engine(frozen(tiny_config(), ("image",)), stage=stage)
        results[f"changed, stage {stage}"] = _changed_later(config)
    for stage in RESUMED:
        config = with_engine(frozen(tiny_config(), ("image",)), stage=stage)
        straight = leg(Path(folder) / f"straight-{stage}", config, 2)["state"]
        leg(Path(folder) / str(stage), config, 1)
        resumed = leg(Path(folder) / str(stage), config, 2)["state"]
        results[f"resumed, stage {stage}"] = all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
        # What is trained may change between two invocations.
        thawed = with_engine(frozen(tiny_config(), ("fusion",)), stage=stage)
        results[f"thawed, stage {stage}"] = leg(Path(folder) / str(stage), thawed, 3)["losses"]
    return results if comm.rank() == 0 else {}


@lru_cache
def _local(name: str, parts: tuple[str, ...]) -> dict[str, Any]:
    plain = {"kind": "local", "momentum_storage": "dense"}
    if name == "pretrain":
        return run_steps(with_engine(frozen(tiny_config(), parts), **plain), STEPS)
    return run_task(name, with_engine(frozen(task_config(name), parts), **plain))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dict(run_ranks(_under_zero, 2, str(tmp_path_factory.mktemp("frozen")), timeout=250, fresh=True)[0])


def _assert_equal(got: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    for ours, theirs in zip(got["losses"], expected["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), where
    assert got["norms"] == pytest.approx(expected["norms"], rel=1e-4), where
    for part in ("student", "momentum"):
        for name, tensor in got[part].items():
            # Keys' biases have no true gradient: AdamW steps by the learning rate along its rounding noise.
            bound = 5e-3 if name.endswith(("key.bias", "qkv.bias")) else WEIGHT_BOUND
            assert float((tensor - expected[part][name]).abs().max()) < bound, f"{where}: {name}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("parts", "stage"), CASES)
def test_frozen_parts_stay_and_the_rest_trains_as_in_the_plain_engine(
    results: dict[str, Any], parts: tuple[str, ...], stage: int
) -> None:
    got = results[f"{parts}, stage {stage}"]
    _assert_equal(got, _local("pretrain", parts), f"{parts}, stage {stage}")
    unmoved = _unmoved(parts, _started(frozen(tiny_config(), parts)), got["student"])
    assert unmoved and all(unmoved.values()), unmoved


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FINETUNED)
def test_every_task_trains_beside_frozen_parts_at_stage_3(results: dict[str, Any], name: str) -> None:
    _assert_equal(results[name], _local(name, FINETUNED[name]), name)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", STAGES)
def test_a_parameter_frozen_or_unfrozen_after_the_start_is_refused_by_name(results: dict[str, Any], stage: int) -> None:
    unfrozen, refrozen = results[f"changed, stage {stage}"].splitlines()
    assert "visual_encoder.norm.bias was unfrozen after" in unfrozen and "text_proj.bias was frozen after" in refrozen
    assert "model.vision.frozen" in unfrozen


@pytest.mark.timeout(300)
def test_a_parameter_without_dimensions_is_one_line(results: dict[str, Any]) -> None:
    at_2, at_3 = results["scalar"].splitlines()
    assert "parameter own.scale of the task has no dimension" in at_2 and "torch.zeros(1)" in at_2
    assert "a parameter of the task has no dimension" in at_3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", RESUMED)
def test_a_run_with_frozen_parts_resumes_bit_for_bit_or_with_other_parts_frozen(results: dict[str, Any], stage: int) -> None:
    assert results[f"resumed, stage {stage}"]
    [losses] = results[f"thawed, stage {stage}"]
    assert all(0.0 < value < 20.0 for value in losses.values())
