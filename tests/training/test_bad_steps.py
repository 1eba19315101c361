"""Loss spikes: an outlier is reported, noise and a falling loss are not."""

from __future__ import annotations

import math
import random

from albef_ds.training.bad_steps import SpikeMonitor


def test_a_spike_is_reported_once_and_ordinary_losses_never() -> None:
    chance, monitor = random.Random(0), SpikeMonitor(10.0)
    said = [monitor.spike(5.0 * math.exp(-step / 400) + chance.gauss(0.0, 0.05)) for step in range(600)]
    assert not any(said)
    assert "loss 4 against" in monitor.spike(4.0)
    assert monitor.spike(5.0 * math.exp(-1.5)) == ""


def test_nothing_is_odd_before_there_is_something_to_compare_with() -> None:
    monitor = SpikeMonitor(10.0)
    assert [monitor.spike(loss) for loss in (1.0, 100.0, 1.0)] == ["", "", ""]


def test_a_constant_loss_leaves_room_for_a_tenth() -> None:
    monitor = SpikeMonitor(10.0)
    assert not any(monitor.spike(2.0) for _ in range(50))
    assert monitor.spike(2.19) == "" and monitor.spike(2.3)


def test_zero_turns_it_off() -> None:
    monitor = SpikeMonitor(0.0)
    assert not any(monitor.spike(loss) for loss in [1.0] * 50 + [1e9])


def test_a_loss_with_other_terms_is_not_compared_with_those_before() -> None:
    monitor = SpikeMonitor(6.0)
    assert not any(monitor.spike(5.0 + 0.01 * (step % 3), ["itc"]) for step in range(50))
    assert not monitor.spike(14.0, ["itc", "mlm"])
    assert not any(monitor.spike(14.0 + 0.01 * (step % 3), ["itc", "mlm"]) for step in range(50))
    assert monitor.spike(20.0, ["mlm", "itc"])
