"""The update of value and residual as one Triton kernel for all parameters, the same to the bit as `average_in_torch`.

A launch takes a table of addresses, so that hundreds of small parameters cost one launch. Where all addresses are multiples of 16
a thread moves several weights at once; the others, and the up to 15 last weights of each parameter, are in a second launch.

Tested in Triton's interpreter (tests/engine/zero/test_momentum_triton.py). Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from albef_ds.engine.zero.momentum_loop import Triple

_BLOCK = 1024
"""Weights per program, 8 per thread: with 16 the assembler of Triton 3.6 spills registers on sm_100."""
_ALIGNMENT = 16
_KINDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit  # type: ignore[untyped-decorator]
def _average_kernel(  # type: ignore[no-untyped-def]
    table, blocks, coefficient, KIND: tl.constexpr, FROM_STUDENT: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Updates block `blocks[i]`: a row of `table` and a number within it. A row: addresses of student, value, residual; size."""
    row = table + 4 * tl.load(blocks + 2 * tl.program_id(0))
    first = tl.load(blocks + 2 * tl.program_id(0) + 1) * BLOCK
    students = tl.load(row).to(tl.pointer_type(KIND))
    values = tl.load(row + 1).to(tl.pointer_type(tl.float16))
    residuals = tl.load(row + 2).to(tl.pointer_type(tl.float16))
    size = tl.load(row + 3)
    if ALIGNED:
        students, values, residuals = tl.multiple_of(students, 16), tl.multiple_of(values, 16), tl.multiple_of(residuals, 16)
        size = tl.multiple_of(size, 16)
    places = first + tl.arange(0, BLOCK)
    mask = places < size
    student = tl.load(students + places, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(values + places, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(residuals + places, mask=mask, other=0.0).to(tl.float32)
    copy = value + residual * 0.000244140625  # 2^-12: exact
    # Torch's lerp: it starts from the end that weighs more, and product and sum round once, together.
    exact = tl.fma(student - copy, tl.full((BLOCK,), coefficient, tl.float32), student if FROM_STUDENT else copy)
    high = exact.to(tl.float16)
    low = ((exact - high.to(tl.float32)) * 4096.0).to(tl.float16)
    exact = high.to(tl.float32) + low.to(tl.float32) * 0.000244140625  # twice: see `_split` in momentum_storage.py
    high = exact.to(tl.float16)
    low = ((exact - high.to(tl.float32)) * 4096.0).to(tl.float16)
    tl.store(values + places, high, mask=mask)
    tl.store(residuals + places, low, mask=mask)


@dataclass(frozen=True)
class _Launch:
    table: Tensor
    """int64 (rows, 4)."""
    blocks: Tensor
    """int64 (programs, 2)."""
    kind: torch.dtype
    aligned: bool


class TritonUpdate:
    """Updates all parameters; the tables are made again when an address has changed."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, ...]] = []
        self._launches: list[_Launch] = []

    def __call__(self, triples: Sequence[Triple], decay: float) -> None:
        """Sets each copy to decay * copy + (1 - decay) * student; all tensors are contiguous and on one GPU."""
        rows = [(*(tensor.data_ptr() for tensor in triple), len(triple[0])) for triple in triples]
        if rows != self._rows:
            self._launches, self._rows = _plan(triples), rows
        weight = torch.tensor(1.0 - decay, dtype=torch.float32)
        from_student = float(weight) >= 0.5
        coefficient = float(weight - 1.0 if from_student else weight)
        for launch in self._launches:
            _average_kernel[(len(launch.blocks),)](
                launch.table, launch.blocks, coefficient, _KINDS[launch.kind], from_student, launch.aligned, _BLOCK
            )


def _plan(triples: Sequence[Triple]) -> list[_Launch]:
    """Returns a launch for every precision of the student and alignment that occurs."""
    rows: dict[tuple[torch.dtype, bool], list[tuple[int, ...]]] = {}
    for triple in triples:
        student, value, residual = triple
        assert all(tensor.is_contiguous() for tensor in triple) and student.dtype in _KINDS, "the kernel reads them as these"
        assert value.dtype == residual.dtype == torch.float16
        aligned = all(tensor.data_ptr() % _ALIGNMENT == 0 for tensor in triple)
        body = len(student) // _ALIGNMENT * _ALIGNMENT if aligned else 0
        for part, first, size in ((True, 0, body), (False, body, len(student) - body)):
            if size:
                addresses = (tensor.data_ptr() + first * tensor.element_size() for tensor in triple)
                rows.setdefault((student.dtype, part), []).append((*addresses, size))
    launches = []
    for (kind, aligned), table in rows.items():
        blocks = [(row, number) for row, (*_, size) in enumerate(table) for number in range(triton.cdiv(size, _BLOCK))]
        device = triples[0][0].device
        launches.append(_Launch(torch.tensor(table, device=device), torch.tensor(blocks, device=device), kind, aligned))
    return launches
