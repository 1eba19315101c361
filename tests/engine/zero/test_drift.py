"""The stored average follows the true one at small learning rates, where one update is far below an fp16 rounding step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef_ds.engine.zero.momentum_storage import STORAGES

STEPS, RATE, DECAY = 4000, 1e-5, 0.995


@pytest.fixture(scope="module")
def walk() -> tuple[dict[str, float], float]:
    """Returns each storage's error against an fp64 average over 4,000 AdamW steps of a small regression at learning rate 1e-5.

    Relative to the distance between the true average and the student.
    """
    torch.manual_seed(0)
    teacher, student = (torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)) for _ in range(2))
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, foreach=True)
    start = _flat(student)
    true = start.double()
    storages = {name: make(start.numel()) for name, make in STORAGES.items()}
    for storage in storages.values():
        storage.write(start)
    for _ in range(STEPS):
        inputs = torch.randn(16, 16)
        with torch.no_grad():
            targets = teacher(inputs)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(student(inputs), targets).backward()
        optimizer.step()
        weights = _flat(student)
        true.lerp_(weights.double(), 1.0 - DECAY)
        for storage in storages.values():
            storage.average(weights, DECAY)
    distance = float((weights.double() - true).norm())
    return {name: float((storage.read().double() - true).norm()) / distance for name, storage in storages.items()}, distance


def _flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_value_and_residual_follow_and_nearest_rounding_does_not(walk: tuple[dict[str, float], float]) -> None:
    errors, distance = walk
    assert distance > 0.0
    assert errors["value_residual"] < 1e-3
    assert errors["fp32"] < 1e-3
    assert errors["fp16_nearest"] > 1e-3  # the very check that the chosen form passes
    assert errors["value_residual"] < errors["fp16_stochastic"] < errors["fp16_nearest"]


def test_stochastic_rounding_is_right_on_average() -> None:
    torch.manual_seed(0)
    storage = STORAGES["fp16_stochastic"](100_000)
    storage.write(torch.ones(100_000))
    storage.average(torch.full((100_000,), 1.1), 0.999)  # 1.0001: a tenth of the step to the next fp16
    assert float(storage.read().double().mean()) == pytest.approx(1.0001, abs=1e-5)
    assert set(storage.read().tolist()) == {1.0, 1.0 + 2.0**-10}


def test_what_a_checkpoint_holds_splits_into_the_same_value_and_residual() -> None:
    torch.manual_seed(0)
    size = 1_000_000
    first, second = STORAGES["value_residual"](size), STORAGES["value_residual"](size)
    first.write(torch.randn(size))
    first.average(torch.randn(size), DECAY)
    second.write(first.read())
    assert torch.equal(first.sent, second.sent)
    assert torch.equal(first.read(), second.read())
