"""`albef-ds plan`: the advice fits and is the simplest that does, and what cannot fit is said in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.common.exit_codes import MISTAKE
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import get_recipe
from albef_ds.engine.build import build_task
from albef_ds.launch.planning.parameter_counts import count
from albef_ds.launch.planning.plan import GB, largest_micro_batch, make_plan, with_micro_batch
from albef_ds.launch.planning.settings_search import PRESETS, recommend


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_the_count_without_memory_is_the_real_models(frozen: str) -> None:
    config = parse_overrides(get_recipe("debug"), [f"model.text.frozen={frozen}"])
    counts, task = count(config), build_task(config)
    assert counts.total == sum(parameter.numel() for parameter in task.parameters())
    assert counts.trainable == sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    averaged = [parameter for parameter in task.base.parameters() if parameter.requires_grad]
    assert sum(map(sum, counts.units)) == sum(parameter.numel() for parameter in averaged)


@pytest.mark.parametrize("name", PRESETS)
def test_a_recommendation_fits_and_its_overrides_lead_to_it(name: str) -> None:
    gpus, gigabytes = PRESETS[name]
    config = get_recipe("pretrain_4m")
    choice = recommend(config, gpus, gigabytes * GB)
    assert choice.plan.total <= gigabytes * GB
    copied = parse_overrides(config, choice.overrides)
    assert make_plan(copied, gpus).total == choice.plan.total
    assert copied.accumulation_steps(gpus) >= 1


def test_ample_memory_keeps_the_simplest_setting() -> None:
    config = get_recipe("pretrain_4m")
    choice = recommend(config, 8, 1000 * GB)
    assert choice.plan.config.engine.stage == 0
    assert choice.plan.config.train.micro_batch_size == config.train.micro_batch_size
    assert not choice.plan.config.compute.checkpoint_visual


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    config = get_recipe("pretrain_4m")
    counts = count(config)
    largest = largest_micro_batch(config, 8, 40 * GB, counts)
    assert largest > 2
    assert make_plan(with_micro_batch(config, largest, 8), 8, counts).total <= 40 * GB
    assert make_plan(with_micro_batch(config, largest + 1, 8), 8, counts).total > 40 * GB


def test_what_cannot_fit_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"nothing fits 1 x 2 GB: .* GB more") as caught:
        recommend(get_recipe("pretrain_huge"), 1, 2 * GB)
    assert "\n" not in str(caught.value)


def test_the_users_own_stage_is_not_changed() -> None:
    config = get_recipe("pretrain_4m")
    config = replace(config, engine=replace(config.engine, stage=1))
    assert recommend(config, 4, 80 * GB, {"engine.stage"}).plan.config.engine.stage == 1


def test_the_command_prints_a_table_and_json_of_the_same_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--recipe", "pretrain_4m", "--preset", "8x40"]) == 0
    table = capsys.readouterr().out
    assert main(["plan", "--recipe", "pretrain_4m", "--preset", "8x40", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["fits"] is True
    assert sum(line["bytes"] for line in values["lines"]) == values["total_bytes"]
    assert f"{values['total_bytes'] / GB:8.3f} GB" in table


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe", "pretrain_4m", "--gpus", "0"],
        ["--recipe", "pretrain_4m", "--memory", "much"],
        ["--recipe", "pretrain_4m", "--preset", "8x40", "--gpus", "4"],
        ["--recipe", "pretrain_4m", "--gpus", "7"],
        ["--recipe", "pretrain_huge", "--gpus", "1", "--memory", "2"],
        ["--recipe", "pretrain_4m", "--gpus", "8", "--memory", "4", "engine.stage=2"],
        ["--recipe", "debug", "--gpus", "2"],
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == MISTAKE
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
