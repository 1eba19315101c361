"""Planted sections for the tests of the GPU suite's runner: one that passes, and every way to go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.rows import Context, NotRun, Row
from benchmarks.gpu.sections import Section


def good(context: Context) -> Iterator[Row]:
    print("said in the log")
    yield Row("figure", 2.0, "s", at_most=3)
    yield Row("name", "a text has no bounds")
    yield Row("seen", context.earlier("figure") or 0.0)


def beyond(context: Context) -> Iterator[Row]:
    yield Row("speed", 1.0, "x", at_least=3)
    yield Row("error", float("nan"), at_most=1e-3)


def broken(context: Context) -> Iterator[Row]:
    yield Row("measured before", 1.0)
    raise RuntimeError("the kernel is wrong\nand more")


def stopping(context: Context) -> Iterator[Row]:
    yield Row("begun", 1.0)
    raise SystemExit(3)


def hanging(context: Context) -> Iterator[Row]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (Path(context.folder).parent / "child").write_text(str(child.pid))
    yield Row("begun", 1.0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def hungry(context: Context) -> Iterator[Row]:
    yield Row("begun", 1.0)
    bytearray(1 << 60)  # more than any machine has


def killed(context: Context) -> Iterator[Row]:
    yield Row("begun", 1.0)
    print("allocating", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(context: Context) -> Iterator[Row]:
    yield from ()


def unable(context: Context) -> Iterator[Row]:
    yield Row("tried", 1.0)
    raise NotRun("there is no nvJPEG here")


def planted(name: str, seconds: float = 60.0, *needs: str) -> Section:
    """The section of that function."""
    return Section(f"right.{name}", f"planted: {name}", f"{__name__}:{name}", seconds, needs)
