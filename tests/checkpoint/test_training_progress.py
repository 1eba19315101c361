"""How long a run is planned, by steps, by epochs, by the clock."""

from __future__ import annotations

import pytest

from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.config.schema import TrainConfig


def progress(num_samples: int | None, step: int = 0, seconds: float = 0.0, **train: float) -> TrainingProgress:
    config = TrainConfig(micro_batch_size=8, global_batch_size=8, **train)  # type: ignore[arg-type]
    return TrainingProgress(config, num_samples, step=step, samples=8 * step, seconds=seconds)


@pytest.mark.parametrize(
    ("num_samples", "train", "steps"),
    [
        (100, {"epochs": 2.0}, 25),
        (101, {"epochs": 2.0}, 26),  # the last epoch is seen whole
        (100, {"epochs": 2.0, "max_steps": 10}, 10),
        (100, {"epochs": 0.5, "max_steps": 10}, 7),
        (100, {"epochs": 0.0, "max_steps": 30}, 30),  # no limit by epochs
        (None, {"max_steps": 12}, 12),
        (None, {"max_minutes": 3.0}, None),
        (3, {"epochs": 0.1}, 1),
    ],
)
def test_the_first_limit_that_is_reached_ends_the_run(
    num_samples: int | None, train: dict[str, float], steps: int | None
) -> None:
    assert progress(num_samples, **train).total_steps == steps


def test_a_run_by_steps_is_done_at_its_last_step() -> None:
    assert not progress(100, step=9, max_steps=10).done and progress(100, step=10, max_steps=10).done
    assert progress(100, step=5, max_steps=10).share == pytest.approx(0.5)
    assert progress(100, step=5, max_steps=10).total_samples == 80.0
    assert progress(100, step=5, max_steps=10).epoch == pytest.approx(0.4)


def test_a_run_by_the_clock_stretches_its_schedules_over_the_budget() -> None:
    half = progress(1_000_000, step=10, seconds=60.0, max_minutes=2.0)
    assert half.share == pytest.approx(0.5) and half.total_samples == pytest.approx(160.0)
    assert progress(1_000_000, step=10, seconds=120.0, max_minutes=2.0).done
    assert not progress(1_000_000, step=10, seconds=119.0, max_minutes=2.0).done


def test_whichever_of_clock_and_steps_is_further_decides() -> None:
    both = progress(100, step=9, seconds=6.0, max_steps=10, max_minutes=1.0)
    assert both.share == pytest.approx(0.9) and both.total_samples == pytest.approx(80.0)


def test_a_stream_of_unknown_length_has_no_epochs() -> None:
    unknown = progress(None, step=5, seconds=30.0, max_minutes=1.0)
    assert unknown.epoch == 0.0 and unknown.total_samples == pytest.approx(80.0)
    assert progress(None, max_minutes=1.0).share == 0.0
