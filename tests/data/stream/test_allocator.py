"""Freed memory is kept: page faults are counted in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from albef_ds.data.stream.allocator import keep_freed_memory
from albef_ds.data.stream.loader import start_worker
if sys.argv[1] == "worker":
    start_worker(0)
elif sys.argv[1] == "kept":
    print(keep_freed_memory())
def step():
    tensors = [torch.ones(1_250_000) for _ in range(12)]  # 5 MB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **environment: str) -> tuple[str, int]:
    """Returns the script's answer, and the page faults of a step after three equal ones."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "LD_PRELOAD", "THP"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    *said, count = done.stdout.split()
    return " ".join(said), int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_step_done_again_faults_in_no_pages_where_freed_memory_is_kept() -> None:
    said, count = faults("kept")
    assert said == "True"
    assert max(count, faults("worker")[1]) < 2_500  # 60 MB in pages of 4 KB are 14,648


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_an_allocator_that_the_environment_sets_up_is_left_alone() -> None:
    said, count = faults("kept", MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False" and count > 12_500
