"""The Triton kernels in Triton's interpreter; tests/benchmarks/test_kernels.py compiles them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_the_kernels_equal_the_sliced_form_in_fp64(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.models.losses.triton_check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
