"""The C loop of the momentum update equals the reference to the bit, for every number, size, alignment and precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch

from albef_ds.engine import build
from albef_ds.engine.zero import momentum_loop
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.engine.zero.momentum_storage import average_in_torch
from tests.engine.zero.common import tiny_config
from tests.engine.zero.momentum_cases import DECAYS, KINDS, SIZES, numbers, same_bits, stored

compiled = pytest.mark.skipif(not momentum_loop.FORMS, reason="no C compiler, or a processor without the instructions")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the update is torch's")
def test_installation_compiled_the_loop() -> None:
    assert momentum_loop.FORMS


def _check(student: torch.Tensor, copy: tuple[torch.Tensor, torch.Tensor], decay: float, form: Callable[..., None]) -> None:
    expected = tuple(tensor.clone() for tensor in copy)
    average_in_torch(student, *expected, decay)
    before = student.clone()
    momentum_loop.average([(student, *copy)], decay, form)
    assert all(same_bits(*pair) for pair in zip(copy, expected, strict=True)), (len(student), student.dtype, decay)
    assert torch.equal(student.nan_to_num(), before.nan_to_num())


@compiled
@pytest.mark.parametrize("form", momentum_loop.FORMS, ids=[f"form {number}" for number, _ in enumerate(momentum_loop.FORMS)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_numbers_in_any_place_give_the_references_bits(kind: torch.dtype, form: Callable[..., None]) -> None:
    for decay in DECAYS:
        for size in SIZES:
            for offset in (0, 1, 5):
                _check(numbers(size, size, kind, offset), stored(size, size + 1, offset), decay, form)


@compiled
@pytest.mark.parametrize("form", momentum_loop.FORMS, ids=[f"form {number}" for number, _ in enumerate(momentum_loop.FORMS)])
def test_every_fp16_value_with_any_residual_gives_the_references_bits(form: Callable[..., None]) -> None:
    """Also pairs that no split gives, such as a residual beyond half a rounding step."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    for seed in range(8):
        residual = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]
        near = every.float() * (1.0 + 0.001 * torch.randn(len(every), generator=torch.Generator().manual_seed(seed)))
        for student in (near, numbers(len(every), seed)):
            _check(student, (every.clone(), residual.clone()), 0.995, form)


@compiled
@pytest.mark.parametrize("form", momentum_loop.FORMS, ids=[f"form {number}" for number, _ in enumerate(momentum_loop.FORMS)])
def test_sums_at_a_midpoint_are_split_again(form: Callable[..., None]) -> None:
    """With decay 0 the copy becomes the student: weights near the middle of two values, where the residual rounds up to it."""
    values = torch.arange(1, 0x7C00, dtype=torch.int16).view(torch.float16).float()
    above = torch.nextafter(values.half(), torch.tensor(torch.inf).half()).float()
    middle = ((values.double() + above.double()) / 2).float()
    for steps in range(-3, 4):
        student = (middle.view(torch.int32) + steps).view(torch.float32)
        for sign in (1.0, -1.0):
            _check(sign * student, stored(len(student), 3), 0.0, form)


@compiled
@pytest.mark.parametrize("form", momentum_loop.FORMS, ids=[f"form {number}" for number, _ in enumerate(momentum_loop.FORMS)])
def test_a_residual_too_small_for_fp16_is_zero_without_a_sign(form: Callable[..., None]) -> None:
    """With decay 0: weights next to an fp16 value. Up to 2^-13 the rest below one rounds to -0, which a second split clears."""
    values = torch.arange(0, 0x7C00, dtype=torch.int16).view(torch.float16).float()
    for steps in range(-2, 3):
        student = (values.view(torch.int32) + steps).view(torch.float32)
        for sign in (1.0, -1.0):
            _check(sign * student, stored(len(student), 3), 0.0, form)


@compiled
def test_several_threads_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momentum_loop, "_PIECE", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    student, copy = numbers(10_007, 1), stored(10_007, 2)
    _check(student, copy, 0.995, momentum_loop.FORMS[-1])


@compiled
def test_tensors_with_gaps_are_left_to_torch() -> None:
    assert momentum_loop.can_average(torch.zeros(8))
    assert not momentum_loop.can_average(torch.zeros(16)[::2])
    assert not momentum_loop.can_average(torch.zeros(8, dtype=torch.float64))
    with pytest.raises(AssertionError, match="C reads"):
        momentum_loop.average([(torch.zeros(16)[::2], torch.zeros(8).half(), torch.zeros(8).half())], 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_the_update_moves_a_model_alike(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C loop, torch, and what a machine without a compiler runs; also for a student in reduced precision."""
    student = build.build_task(tiny_config()).base.to(kind)
    copies = [ShardedMomentum(student, 0.9, update=update) for update in ("auto", "torch", "auto")]
    for step in range(3):
        for parameter in student.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)).to(kind), alpha=0.01)
        copies[0].update()
        copies[1].update()
        with monkeypatch.context() as context:
            context.setattr(momentum_loop, "FORMS", [])
            copies[2].update()
    states = [copy.full_state_dict() for copy in copies]
    assert all(torch.equal(state[name], tensor) for state in states[1:] for name, tensor in states[0].items())
