"""The Triton kernels in Triton's interpreter, and compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def _run(module: str, interpret: bool, cache: Path) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(cache)}
    environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
    command = [sys.executable, "-m", f"tests.models.losses.{module}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_kernels_equal_the_sliced_form_in_fp64(tmp_path: Path) -> None:
    assert len(_run("triton_check", True, tmp_path)) == 8


def test_the_kernels_compile_for_two_generations_of_gpus(tmp_path: Path) -> None:
    assert len(_run("triton_compile", False, tmp_path)) == 12
