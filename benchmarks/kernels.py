"""Registers, spills and shared memory of every Triton kernel, compiled for three generations of GPUs, which needs no GPU.

    python -m benchmarks.kernels --out benchmarks/kernels

The launches of a base-size step are recorded on tensors without data, so that types, constants and warps are those of training.
Each is compiled for sm_80 (A100), sm_90 (H100) and sm_100 (B200); cuobjdump, which Triton ships, reads the figures.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from albef_ds.engine.zero import momentum_triton
from albef_ds.models.losses import sliced_triton
from albef_ds.models.losses.sliced_problem import FeatureTeacher, LogitTeacher, Positives, Problem
from benchmarks.record import record_parser, write_record

CAPABILITIES = {80: "sm_80 (A100)", 90: "sm_90 (H100)", 100: "sm_100 (B200)"}
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Largest shared memory of one program in bytes (CUDA C++ Programming Guide, compute capabilities)."""
_BATCH, _QUEUE, _TOKENS, _VOCABULARY, _WIDTH, _EMBED = 64, 65_536, 256, 30_522, 768, 256
_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int64: "i64", torch.uint8: "u8"}
_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel: its arguments in order, its constants and options."""

    title: str
    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the kernel's function."""
        return str(self.kernel.__name__)


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses."""

    registers: int
    """Per thread."""
    spilled: int
    """Bytes of stack and local memory per thread: registers that did not fit."""
    shared: int
    """Bytes per program."""

    def fits(self, capability: int) -> bool:
        """Whether nothing is spilled and the GPU has the shared memory."""
        return not self.spilled and self.shared <= SHARED_LIMIT[capability]


class _Recorder:
    """Stands in for a kernel and keeps its launches."""

    def __init__(self, kernel: Any, title: str, launches: list[Launch]) -> None:
        self.kernel, self.title, self.launches = kernel, title, launches

    def __getitem__(self, _grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            self.launches.append(Launch(self.title, self.kernel, arguments, constants))

        return launch


def kernels_of(module: ModuleType) -> list[str]:
    """Names of the kernels that a module launches: its Triton functions that end in `_kernel`."""
    return sorted(name for name in vars(module) if name.endswith("_kernel"))


@contextmanager
def recorded(module: ModuleType, title: str, launches: list[Launch]) -> Iterator[None]:
    """Within the block the kernels of `module` are not launched but added to `launches`."""
    kernels = {name: getattr(module, name) for name in kernels_of(module)}
    for name, kernel in kernels.items():
        setattr(module, name, _Recorder(kernel, title, launches))
    try:
        yield
    finally:
        for name, kernel in kernels.items():
            setattr(module, name, kernel)


def loss_launches() -> list[Launch]:
    """Launches of the two losses over wide rows at base size: ITC, which is in fp32, and MLM in fp32 and bf16."""
    launches: list[Launch] = []

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def both(title: str, problem: Problem) -> None:
        with recorded(sliced_triton, title, launches):
            sums = sliced_triton.sums(problem)
            sliced_triton.logit_gradient(problem, slice(0, 16_384), sums, 0.4)

    mask = Positives(mask=empty(_BATCH, _BATCH + _QUEUE, dtype=torch.bool))
    features, teacher = empty(_BATCH, _EMBED), FeatureTeacher(empty(_BATCH, _EMBED))
    both("ITC in fp32", Problem(features, empty(_BATCH + _QUEUE, _EMBED), None, empty(1), mask, teacher))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        labels = Positives(labels=empty(_TOKENS, dtype=torch.int64))
        hidden, matrix, bias = (empty(*size, dtype=dtype) for size in ((_TOKENS, _WIDTH), (_VOCABULARY, _WIDTH), (_VOCABULARY,)))
        given = LogitTeacher(empty(_TOKENS, _VOCABULARY, dtype=dtype))
        both(f"MLM in {name}", Problem(hidden, matrix, bias, empty(1), labels, given))
    return launches


def momentum_launches() -> list[Launch]:
    """Launches of the momentum update of weights in fp32 and in bf16, whose number is no multiple of 16."""
    launches: list[Launch] = []
    for dtype in (torch.float32, torch.bfloat16):
        student, value, residual = (torch.zeros(4099, dtype=kind) for kind in (dtype, torch.float16, torch.float16))
        with recorded(momentum_triton, f"momentum update of {_TYPES[dtype]}", launches):
            momentum_triton.TritonUpdate()([(student, value, residual)], 0.995)
    return launches


LAUNCHES: dict[ModuleType, Callable[[], list[Launch]]] = {sliced_triton: loss_launches, momentum_triton: momentum_launches}
"""Module with kernels -> their launches in a base-size step."""


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"


def compiled(launch: Launch, capability: int) -> CompiledKernel:
    """The kernel of `launch` compiled for a GPU of `capability`; pointers and sizes are specialised as at a real launch."""
    options = {name: value for name, value in launch.constants.items() if name in _OPTIONS}
    names = launch.kernel.arg_names
    given = dict(zip(names, launch.arguments, strict=False))
    constants = {parameter.name: given.pop(parameter.name) for parameter in launch.kernel.params if _is_given(parameter, given)}
    constants |= {name: value for name, value in launch.constants.items() if name not in _OPTIONS}
    signature = {name: "constexpr" if name in constants else _type(given[name]) for name in names}
    aligned = [i for i, name in enumerate(names) if name in given and _divides_16(given[name])]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(ASTSource(launch.kernel, signature, constants, attributes), target=target, options=options)


def _is_given(parameter: Any, given: dict[str, Any]) -> bool:
    return parameter.is_constexpr and parameter.name in given


def _divides_16(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)


def resources(kernel: CompiledKernel) -> Resources:
    """Reads what a compiled kernel uses from its machine code."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(program), "--dump-resource-usage", file.name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in printed.splitlines() if "REG:" in line)
    found = {key: int(value) for key, value in (entry.split(":") for entry in line.split())}
    return Resources(found["REG"], found["STACK"] + found["LOCAL"], int(kernel.metadata.shared))


def main() -> None:
    """Compiles and writes the record."""
    arguments = record_parser(__doc__).parse_args()
    rows = []
    for launch in (launch for make in LAUNCHES.values() for launch in make()):
        for capability, title in CAPABILITIES.items():
            used = resources(compiled(launch, capability))
            row = {"kernel": launch.name, "launch": launch.title, "GPU": title, "registers": used.registers}
            rows.append(row | {"spilled, bytes": used.spilled, "shared memory, bytes": used.shared})
    notes = [
        f"Launches of a base-size step: batch {_BATCH}, queue {_QUEUE:,}, {_TOKENS} masked tokens, vocabulary {_VOCABULARY:,}. "
        "Registers are per thread (at most 255), shared memory per program (at most 163 KiB on sm_80, 227 KiB on the others). "
        "No GPU was needed, and none has run these kernels yet."
    ]
    write_record(arguments.out, "The Triton kernels, compiled", notes, rows, ["torch", "triton"], {})


if __name__ == "__main__":
    main()
