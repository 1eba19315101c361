"""Steps with bad numbers are skipped and recorded; after too many the run ends or their samples are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.data.batch import Batch
from albef_ds.training.trainer import Trainer
from tests.data.conftest import numbered_corpus

POISONED = range(24, 40)
"""Positions of the samples whose images are not numbers: those of steps 4 and 5."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_corpus(tmp_path_factory.mktemp("data") / "corpus", 40, 20)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Poisons the samples of `POISONED`, and lists the first place of every batch that the run is given."""
    places: list[int] = []
    fetch: Callable[[Trainer], list[Batch]] = Trainer._fetch

    def poisoned(trainer: Trainer) -> list[Batch]:
        batches = fetch(trainer)
        places.append(int(batches[0].positions[0]))
        if places[-1] in POISONED:
            return [replace(batch, images=torch.full_like(batch.images, torch.nan)) for batch in batches]
        return batches

    monkeypatch.setattr(Trainer, "_fetch", poisoned)
    return places


def train(corpus: Path, output: Path, *more: str) -> int:
    lengths = ["train.max_steps=8", "train.save_every=2", "train.dry_run_batch=false", "train.keep_last=0"]
    return main(["train", "--recipe", "debug", f"data.shards={corpus}", *lengths, *more, "--output", str(output)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(output: Path) -> list[dict[str, Any]]:
    return [line for line in lines(output / "metrics.jsonl") if line["kind"] == "step"]


def test_bad_steps_are_skipped_written_down_and_do_not_advance_the_schedules(
    corpus: Path, tmp_path: Path, given: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(corpus, tmp_path / "run") == 0
    assert given == list(range(0, 64, 8))
    bad = lines(tmp_path / "run" / "bad_steps.jsonl")
    assert [(line["kind"], line["step"]) for line in bad] == [("skipped", 4), ("skipped", 5)]
    assert bad[0]["ranks"][0]["positions"] == list(range(24, 32)) and len(set(bad[0]["ranks"][0]["keys"])) == 8
    assert "step 4: losses are not finite" in capfd.readouterr().err
    rates = [line["learning_rate"] for line in steps(tmp_path / "run")]
    assert rates[3] == rates[4] == rates[5] != rates[6]
    assert all(line["loss"] is not None for line in steps(tmp_path / "run") if line["step"] not in (4, 5))


def test_too_many_in_a_row_stop_the_run_with_a_code_of_its_own(
    corpus: Path, tmp_path: Path, given: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(corpus, tmp_path / "run", "train.bad_steps=2") == 4
    assert given[-1] == 32
    assert "2 steps in a row were not finite" in capfd.readouterr().err
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-0000005" / "state.json").read_text())
    assert state["samples"] == 40 and state["skipped_samples"] == 16 and state["counters"]["optimizer_steps"] == 3


def test_a_rollback_goes_to_the_checkpoint_before_and_jumps_over_the_samples(
    corpus: Path, tmp_path: Path, given: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert train(corpus, output, "train.bad_steps=2", "train.on_bad_steps=rollback") == 0
    # Back to step 2 (16 samples), then over the poisoned window.
    assert given == [0, 8, 16, 24, 32, 16, 40, 48, 56, 64, 72]
    assert "samples 24 to 40 of the run will be skipped" in capfd.readouterr().err
    first, again = (line for line in steps(output) if line["step"] == 3)
    assert {k: v for k, v in first.items() if k.startswith("loss")} == {k: v for k, v in again.items() if k.startswith("loss")}
    state = json.loads((output / "checkpoints" / "step-0000008" / "state.json").read_text())
    assert state["samples"] == 80 and state["holes"] == [[24, 40]] and state["skipped_samples"] == 16
    assert (output / "checkpoints" / "abandoned-step-0000004").is_dir()


def test_weights_that_diverge_for_good_stop_the_run_after_its_rollbacks(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rates = [f"optim.{name}=1e30" for name in ("learning_rate", "initial_learning_rate", "final_learning_rate")]
    more = ["train.bad_steps=1", "train.on_bad_steps=rollback", "train.max_rollbacks=2", "train.save_every=1"]
    assert train(corpus, tmp_path / "run", *rates, *more) == 4
    assert capfd.readouterr().err.count("rolled back to") == 2
