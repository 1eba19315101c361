"""A run's log says how fast it is, profiles the steps it is asked to, and collects garbage between steps only."""

from __future__ import annotations

import gc
import gzip
import json
from pathlib import Path

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.config.recipes.debug import debug
from albef_ds.config.schema import TrainConfig
from albef_ds.launch.planning.flops import step_flops
from albef_ds.training.garbage import GarbageCollection
from albef_ds.training.profiling import StepProfile
from tests.data.conftest import numbered_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_corpus(tmp_path_factory.mktemp("data") / "corpus", 40, 20)


def train(corpus: Path, output: Path, *more: str) -> list[dict[str, float]]:
    lengths = ["train.max_steps=4", "train.dry_run_batch=false"]
    assert main(["train", "--recipe", "debug", f"data.shards={corpus}", *lengths, *more, "--output", str(output)]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def test_a_run_with_a_known_peak_logs_utilisation_and_writes_its_profile(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = train(corpus, tmp_path, "train.peak_tflops=0.5", "train.profile_steps=2:3")
    config = debug()
    flops = sum(part.model for part in step_flops(config)) / config.train.micro_batch_size
    for step in steps:
        assert step["tokens_per_second"] > 2 * step["images_per_second"]  # [CLS] and more
        assert step["model_flops_utilisation"] == pytest.approx(step["images_per_second"] * flops / 0.5e12)
    trace = tmp_path / "profile" / "steps-2-3.trace.json.gz"
    said = capfd.readouterr().err
    assert f"profile of steps 2 to 3: {trace}" in said and "peak of a device: 0.5 TFLOP/s" in said
    with gzip.open(trace) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"aten::addmm", "aten::_fused_adamw_"} & names
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_run_says_that_the_peak_is_unknown_and_that_no_step_was_profiled(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = train(corpus, tmp_path, "train.max_steps=0", "train.epochs=0.2", "train.profile_steps=90:91", "train.gc_every=0")
    assert "model_flops_utilisation" not in steps[0]
    said = capfd.readouterr().err
    assert "unknown peak of this CPU in fp32: train.peak_tflops=NUMBER logs model FLOPs utilisation" in said
    assert "train.profile_steps=90:91 profiled nothing: the last step was 1" in said
    assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_early_writes_the_steps_it_has_profiled(tmp_path: Path) -> None:
    said: list[str] = []
    profile = StepProfile((3, 10), tmp_path, torch.device("cpu"), said.append)
    for step in (2, 3, 4):
        profile.before_step(step)
        profile.after_step(step)
    profile.at_end(4)
    assert (tmp_path / "profile" / "steps-3-4.trace.json.gz").exists() and said[0].startswith("profile of steps 3 to 4: ")


@pytest.mark.parametrize("steps", ["5", "a:b", "3:2", "0:4", "1:2:3", "-1:4", ":", "²:3"])
def test_a_bad_range_of_steps_is_refused_by_name(steps: str) -> None:
    with pytest.raises(ConfigError, match=r"^train\.profile_steps is .*: give "):
        TrainConfig(profile_steps=steps)


def test_steps_after_the_end_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.profile_steps 9:10 begins after train\.max_steps 8: give earlier steps"):
        TrainConfig(profile_steps="9:10", max_steps=8)


def test_garbage_is_collected_after_the_steps_that_are_due_only(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    garbage = GarbageCollection(3)
    with garbage.controlled():
        assert not gc.isenabled() and gc.get_freeze_count() > 0
        monkeypatch.setattr(gc, "collect", lambda: collected.append(step))
        for step in range(1, 8):
            garbage.after_step(step)
    assert collected == [3, 6] and gc.isenabled()
    with pytest.raises(KeyError), GarbageCollection(3).controlled():
        raise KeyError
    assert gc.isenabled() and gc.get_freeze_count() == 0
