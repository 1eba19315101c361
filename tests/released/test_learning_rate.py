"""The released code's learning rates under `task.compat`.

Source: scheduler/cosine_lr.py and scheduler_factory.py of the released code (b9727e4) with its calls in Pretrain.py and
Retrieval.py. Run for the settings below, they gave the figures in the tests.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.engine.optim import learning_rate, released_learning_rate, scheduled_rate

EPOCH = 51_200_000  # samples, 100,000 steps of 512


def compat(recipe: str) -> RunConfig:
    config = get_recipe(recipe)
    return replace(config, task=replace(config.task, compat=True))


def rates(config: RunConfig, epoch: int, within: tuple[float, ...] = (0.0, 0.4, 0.999)) -> list[float]:
    """The rates at a few places of an epoch."""
    total = config.train.epochs * EPOCH
    return [scheduled_rate(config, (epoch + share) * EPOCH, total, EPOCH) for share in within]


def test_pretraining_has_one_rate_per_epoch() -> None:
    config = compat("pretrain_4m")
    for epoch, rate in {1: 9.98e-5, 2: 9.90e-5, 29: 1.02e-5}.items():
        assert rates(config, epoch) == pytest.approx([rate] * 3, rel=5e-3)


def test_fine_tuning_has_one_rate_per_epoch() -> None:
    config = compat("retrieval_flickr")
    for epoch, rate in {0: 1e-5, 1: 9.78e-6, 2: 9.14e-6, 9: 1.22e-6}.items():
        assert rates(config, epoch) == pytest.approx([rate] * 3, rel=5e-3)


def test_the_warm_up_jumps_every_hundred_steps_of_epoch_0() -> None:
    config = compat("pretrain_4m")  # 20 jumps of 100 steps from 1e-5 to 1e-4
    steps = {0: 1e-5, 99: 1e-5, 100: 1.45e-5, 1_950: 9.55e-5, 1_999: 9.55e-5, 2_000: 1e-4, 99_999: 1e-4}
    total = config.train.epochs * EPOCH
    found = {step: scheduled_rate(config, step * 512, total, EPOCH) for step in steps}
    assert found == pytest.approx(steps)


def test_a_warm_up_that_is_longer_than_epoch_0_ends_with_it() -> None:
    optim = get_recipe("pretrain_4m").optim
    assert released_learning_rate(optim, 1_000 * 512, 1_000 * 512, 30, 512) == pytest.approx(9.975e-5, rel=1e-3)


def test_a_single_epoch_does_not_decay() -> None:
    config = compat("nlvr_pretrain")
    assert rates(config, 0) == pytest.approx([1e-5, 2e-5, 2e-5])


def test_without_compat_the_cosine_falls_in_every_step() -> None:
    """The departure: a mean rate of 0.75 to 0.98 of the released one."""
    for name, share in {"retrieval_coco": 0.85, "retrieval_flickr": 0.92, "pretrain_4m": 0.97}.items():
        config, total = get_recipe(name), get_recipe(name).train.epochs * EPOCH
        places = [total * (number + 0.5) / 2_000 for number in range(2_000)]
        ours = sum(scheduled_rate(config, place, total, EPOCH) for place in places)
        theirs = sum(scheduled_rate(compat(name), place, total, EPOCH) for place in places)
        assert ours / theirs == pytest.approx(share, abs=0.03)
        assert scheduled_rate(config, total / 3, total, EPOCH) == learning_rate(config.optim, total / 3, total)


def test_a_stream_of_unknown_length_has_no_epochs() -> None:
    config = compat("pretrain_4m")
    assert scheduled_rate(config, 5e6, 1e7, None) == learning_rate(config.optim, 5e6, 1e7)
