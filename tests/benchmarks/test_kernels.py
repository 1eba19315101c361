"""Every Triton kernel compiles for three generations of GPUs without one, spills no register and fits into shared memory."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("triton", "3.3", reason="the interface of the compiler has changed in Triton 3.3")

from benchmarks import kernels
from benchmarks.kernels import CAPABILITIES, LAUNCHES, Launch, Resources, compiled, resources

ROOT = Path(__file__).resolve().parents[2]


@cache
def launches() -> list[Launch]:
    return [launch for make in LAUNCHES.values() for launch in make()]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_of_a_base_size_step_compiles_fits_and_spills_nothing(capability: int) -> None:
    assert launches()
    for launch in launches():
        used = resources(compiled(launch, capability))
        assert used.fits(capability), f"{launch.name}, {launch.title}: {used}"
        assert 0 < used.registers <= 255


def test_a_kernel_that_spills_or_needs_too_much_memory_is_found() -> None:
    launch = next(launch for launch in launches() if launch.title == "MLM in bf16")
    crowded = replace(launch, constants={**launch.constants, "num_warps": 1})
    used = resources(compiled(crowded, 80))
    assert used.spilled > 0 and not used.fits(80)
    assert Resources(64, 0, 200 * 1024).fits(90) and not Resources(64, 0, 200 * 1024).fits(80)


def test_no_kernel_of_the_package_is_left_out() -> None:
    written = set()
    for path in ROOT.glob("albef_ds/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                written.add(node.name)
    launched = {launch.name for launch in launches()}
    found = {name for name in written if name.endswith("_kernel")}
    assert found == launched, "add its launch to LAUNCHES in benchmarks/kernels.py"
    for module in LAUNCHES:
        assert set(kernels.kernels_of(module)) <= launched
