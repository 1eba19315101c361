"""Runs that are killed at random moments end as if nothing had happened. The long form: `python -m benchmarks.faults`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from albef_ds.common.run_files import MOMENTUM_NAME, STUDENT_NAME, step_folder
from tests.data.conftest import numbered_corpus
from tests.faults import harness

STEPS, GLOBAL_BATCH = 12, 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_corpus(tmp_path_factory.mktemp("data") / "corpus", 40, 10)


def arguments(corpus: Path, stage: int, group: str = "node") -> list[str]:
    engine = [f"engine.stage={stage}", f"engine.momentum_group={group}"]
    return [*harness.SMALL, f"data.shards={corpus}", *engine, f"train.max_steps={STEPS}", "train.save_every=2"]


def last_tensors(output: Path, name: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file of the run's last checkpoint."""
    return load_file(output / "checkpoints" / step_folder(STEPS) / name)


def finish(output: Path, ranks: int, line: list[str]) -> None:
    job = harness.start(output, ranks, line)
    assert job.join(300.0) == [0] * ranks, job.errors()


@pytest.mark.timeout(900)
def test_killed_runs_see_every_sample_once_and_end_with_the_same_losses(corpus: Path, tmp_path: Path) -> None:
    """A run of two ranks under ZeRO-2, beside one of four ranks in two momentum groups under ZeRO-1 that is killed, goes on
    alone under ZeRO-3, is killed again, and ends on two ranks that each hold the momentum model, still under ZeRO-3."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(straight, 2, arguments(corpus, 2))
    chance = random.Random(7)
    kills = []
    for ranks, stage, group in ((4, 1, "2"), (1, 3, "node")):
        job = harness.start(killed, ranks, arguments(corpus, stage, group))
        kills.append(harness.disturb(job, chance, STEPS))
    finish(killed, 2, arguments(corpus, 3, "1"))
    assert all(kill is not None for kill in kills), "the run was over before it could be killed"
    given = harness.samples(killed)
    assert given == harness.samples(straight)
    positions = [position for step in sorted(given) for position, _ in given[step]]
    assert positions == list(range(STEPS * GLOBAL_BATCH))
    ours, theirs = harness.losses(killed), harness.losses(straight)
    assert ours.keys() == theirs.keys() == set(range(1, STEPS + 1))
    for step in theirs:
        assert ours[step] == pytest.approx(theirs[step], rel=1e-5), step
    for name in (STUDENT_NAME, MOMENTUM_NAME):
        tensors, expected = last_tensors(killed, name), last_tensors(straight, name)
        assert tensors.keys() == expected.keys()
        # Worst measured: 7.4e-7.
        assert max(float((tensors[key] - expected[key]).abs().max()) for key in expected) < 1e-5, name


@pytest.mark.timeout(900)
def test_a_rank_that_is_killed_takes_the_others_down_and_is_named(corpus: Path, tmp_path: Path) -> None:
    job = harness.start(tmp_path / "run", 2, [*arguments(corpus, 1), "train.max_steps=100000"])
    assert harness.wait_for(job, lambda: harness.last_step(tmp_path / "run") >= 1, 300.0), job.errors()
    job.kill([1])
    codes = job.join(120.0)
    assert codes == [6, -9], job.errors()
    said = [line for line in job.errors().splitlines() if "error:" in line]
    assert len(said) == 1 and said[0].startswith("albef-ds [rank 0]: error: rank 1 on ") and "died" in said[0]


@pytest.mark.timeout(900)
def test_a_rank_that_gives_no_sign_of_life_is_named(corpus: Path, tmp_path: Path) -> None:
    """Stopped, not killed: its connections stay open, so no collective breaks."""
    job = harness.start(tmp_path / "run", 2, [*arguments(corpus, 1), "train.max_steps=100000"])
    assert harness.wait_for(job, lambda: harness.last_step(tmp_path / "run") >= 1, 300.0), job.errors()
    job.stop(1)
    job.processes[0].join(120.0)
    assert job.processes[0].exitcode == 6, job.errors()
    job.kill([1])
    job.join(10.0)
    said = [line for line in job.errors().splitlines() if "error:" in line]
    assert len(said) == 1 and "rank 1 on " in said[0] and "sent no heartbeat for 6 s" in said[0]


@pytest.mark.timeout(900)
def test_one_ranks_mistake_ends_all_ranks_with_one_line(corpus: Path, tmp_path: Path) -> None:
    """Rank 1 alone cannot read its configuration's vocabulary: it was started with another argument."""
    line = arguments(corpus, 1)
    job = harness.start(tmp_path / "run", 2, line, own={1: ["data.vocab_file=/no/such/vocabulary.txt"]})
    assert job.join(300.0) == [2, 2], job.errors()
    said = [line for line in job.errors().splitlines() if "error:" in line]
    assert len(said) == 1 and said[0].startswith("albef-ds [rank 1]: error: ") and "/no/such/vocabulary.txt" in said[0]
    assert "Traceback" not in job.errors()
