"""The Triton kernel of the momentum update, in Triton's interpreter, equals the reference to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from albef_ds.engine.zero.momentum_storage import average_in_torch
from tests.engine.zero.momentum_cases import KINDS, numbers, same_bits, stored

pytest.importorskip("triton")

from triton.runtime import interpreter

from albef_ds.engine.zero import momentum_triton


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the kernel in the interpreter, whose fma rounds twice: 80-bit numbers make it round once, as a GPU does."""

    def fma(_self: Any, x: Any, y: Any, z: Any) -> Any:
        exact = x.data.astype(np.longdouble) * y.data.astype(np.longdouble) + z.data.astype(np.longdouble)
        return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", fma)
    monkeypatch.setattr(momentum_triton, "_average_kernel", interpreter.InterpretedFunction(momentum_triton._average_kernel.fn))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of overflows that are meant
@pytest.mark.parametrize("decay", [0.995, 0.3])
def test_one_call_updates_parameters_of_every_size_alignment_and_precision(decay: float) -> None:
    triples, expected = [], []
    for number, size in enumerate((1, 15, 16, 17, 333, 5000)):
        for offset in (0, 3):
            kind = KINDS[number % len(KINDS)]
            student, (value, residual) = numbers(size, number, kind, offset), stored(size, number + 50, offset)
            expected.append((value.clone(), residual.clone()))
            average_in_torch(student, *expected[-1], decay)
            triples.append((student, value, residual))
    momentum_triton.TritonUpdate()(triples, decay)
    for (_, *found), wanted in zip(triples, expected, strict=True):
        assert all(same_bits(*pair) for pair in zip(found, wanted, strict=True))


def test_a_student_that_has_moved_in_memory_is_read_at_its_new_place() -> None:
    update = momentum_triton.TritonUpdate()
    value, residual = torch.zeros(40).half(), torch.zeros(40).half()
    for weights in (torch.ones(40), torch.full((40,), 3.0)):
        update([(weights, value, residual)], 0.0)
        assert torch.equal(value.float(), weights)
