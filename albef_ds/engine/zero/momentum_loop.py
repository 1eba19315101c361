"""The update of value and residual in one pass in C (`momentum_loop_c.c`), the same to the bit as `average_in_torch`.

`FORMS` is empty if installation could not compile it or the processor lacks the instructions (AVX2 with FMA, or NEON).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from albef_ds.common.compiled import load_library

Triple = tuple[Tensor, Tensor, Tensor]
"""The student's weights, and value and residual of their momentum copy: each (n,)."""
_VERSION = 1
"""Version of the functions' names and arguments, as in momentum_loop_c.c."""
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_PIECE = 2**20
"""Weights per call where several threads share the work."""
_POINTER = ctypes.c_void_p
_FUNCTION = ctypes.CFUNCTYPE(None, _POINTER, ctypes.c_int, _POINTER, _POINTER, ctypes.c_size_t, ctypes.c_float)


def _load() -> list[Callable[..., None]]:
    """Returns the functions that this processor can run, the fastest last."""
    library = load_library("albef_ds.engine.zero._momentum_loop", "albef_ds_momentum_loop_version", _VERSION)
    if library is None:
        return []
    forms = library.momentum_average_forms()
    return list((_FUNCTION * forms).in_dll(library, "momentum_average"))


FORMS = _load()
"""What this processor can run, the fastest last; empty if installation could not compile the loop."""


def can_average(student: Tensor) -> bool:
    """Returns whether `average` takes such weights of the student."""
    return bool(FORMS) and student.is_cpu and student.dtype in _KINDS and student.is_contiguous()


def average(triples: Sequence[Triple], decay: float, form: Callable[..., None] | None = None) -> None:
    """Sets each copy to decay * copy + (1 - decay) * student, in as many threads as torch uses.

    All tensors are contiguous and on the CPU; a student is in fp32, fp16 or bf16. `form`
    is one of `FORMS`, by default the fastest.
    """
    weight = 1.0 - decay
    pieces = [piece for triple in triples for piece in _pieces(triple)]

    def run(piece: Triple) -> None:
        student, value, residual = piece
        (form or FORMS[-1])(
            student.data_ptr(), _KINDS[student.dtype], value.data_ptr(), residual.data_ptr(), student.numel(), weight
        )

    if torch.get_num_threads() == 1 or len(pieces) < 2:
        for piece in pieces:
            run(piece)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # ctypes lets go of Python's lock during a call
        list(pool.map(run, pieces))


def _pieces(triple: Triple) -> list[Triple]:
    student, value, residual = triple
    # Not len(), which is a function in Python and takes as long as thousands of weights: a model has hundreds of small tensors.
    numel = student.numel()
    assert all(tensor.is_contiguous() and tensor.is_cpu for tensor in triple), "C reads them as these"
    assert student.dtype in _KINDS and value.dtype == residual.dtype == torch.float16, "C reads them as these"
    assert numel == value.numel() == residual.numel()
    if numel <= _PIECE or torch.get_num_threads() == 1:
        return [triple]
    return list(zip(*(torch.split(tensor, _PIECE) for tensor in triple), strict=True))
