"""The recommended settings are the fastest that fit, keep the global batch, and are planned and predicted as they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.config.recipes.pretrain import pretrain_14m
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.hardware import PRESETS, Link
from albef_ds.launch.planning.parameter_counts import ModelCounts, count
from albef_ds.launch.planning.plan import GB, make_plan
from albef_ds.launch.planning.throughput import forecast
from albef_ds.launch.planning.throughput_search import ZERO_3_HANDICAP, Option, recommend_speed

H100 = PRESETS["h100"]
GPUS = 64


@pytest.fixture(scope="module")
def config() -> RunConfig:
    config = pretrain_14m()
    return replace(config, train=replace(config.train, micro_batch_size=16, global_batch_size=16 * GPUS))


@pytest.fixture(scope="module")
def counts(config: RunConfig) -> ModelCounts:
    return count(config)


def _again(option: Option, folder: Path) -> RunConfig:
    """The setting with its ZeRO file in `folder`."""
    config = option.forecast.config
    file = folder / "zero.json"
    file.write_text(json.dumps({"zero_optimization": option.knobs}))
    return replace(config, engine=replace(config.engine, ds_config=str(file) if option.knobs else ""))


def test_the_best_is_at_least_as_fast_as_every_plain_choice_and_as_planned(
    config: RunConfig, counts: ModelCounts, tmp_path: Path
) -> None:
    found = recommend_speed(config, counts, H100, GPUS, 80 * GB)
    assert found.too_large is None and found.runner_up is not None
    for option in (found.best, found.runner_up):
        again = _again(option, tmp_path)
        assert again.train.global_batch_size == config.train.global_batch_size
        assert forecast(again, counts, H100, GPUS).step == option.forecast.step
        assert make_plan(again, GPUS, counts).total == option.num_bytes <= 80 * GB
    for stage in (0, 1, 2, 3):
        plain = replace(config, engine=replace(config.engine, stage=stage))
        allowed = 1.0 - ZERO_3_HANDICAP if stage == 3 else 1.0
        assert found.best.forecast.step * allowed <= forecast(plain, counts, H100, GPUS).step


def test_little_memory_takes_what_fits_and_names_what_would_be_faster(config: RunConfig, counts: ModelCounts) -> None:
    whole = recommend_speed(config, counts, H100, GPUS, 80 * GB).best
    small = recommend_speed(config, counts, H100, GPUS, 3.0 * GB)
    assert small.best.num_bytes <= 3.0 * GB < whole.num_bytes
    assert small.too_large is not None and small.too_large.forecast.step < small.best.forecast.step
    with pytest.raises(ConfigError, match="fits a global batch of 1024"):
        recommend_speed(config, counts, H100, GPUS, 1.6 * GB)


def test_settings_that_are_given_stay(config: RunConfig, counts: ModelCounts) -> None:
    fixed = {"engine.stage", "engine.momentum_group", "train.micro_batch_size", "compute.checkpoint_visual"}
    given = replace(config, engine=replace(config.engine, stage=3, momentum_group="world"))
    given = replace(given, compute=replace(given.compute, checkpoint_visual=True))
    found = recommend_speed(given, counts, H100, GPUS, 80 * GB, fixed).best.forecast.config
    assert (found.engine.stage, found.engine.momentum_group) == (3, "world")
    assert found.train == given.train and found.compute == given.compute


def test_a_slow_network_between_nodes_keeps_the_momentum_model_inside_them(config: RunConfig, counts: ModelCounts) -> None:
    slow = replace(H100, between=Link(1e8, 1e-4))
    best = recommend_speed(config, counts, slow, GPUS, 80 * GB, {"engine.stage"}).best.forecast.config
    assert best.engine.momentum_group == "node"
    assert best.train.micro_batch_size == config.train.global_batch_size // GPUS  # stage 2 reduces after every micro-batch


def test_the_command_prints_overrides_that_it_accepts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["plan", "--recipe", "pretrain_14m", "--gpus", "64", "--throughput"]
    assert main([*command, "train.global_batch_size=1024", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["recommended"]["best"]
    monkeypatch.chdir(tmp_path)
    Path("zero.json").write_text(json.dumps({"zero_optimization": best["zero_optimization"]}))
    assert main([*command, *best["overrides"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step_seconds"] == best["step_seconds"]
    assert main([*command, *best["overrides"], "--memory", "1"]) == 0
    text = capsys.readouterr().out
    assert "no setting of 64 GPUs with 1 GB fits" in text and "forward and backward" in text
