"""Runs one section in a process of its own and keeps each row as it comes. Imports nothing that a section does not."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from benchmarks.gpu.rows import Context, NotRun, append, append_row


def run(call: str, context: Context, results: str, log: str) -> None:
    """Runs the section `call` (`module:function`): rows and a last record go to `results`, all output to `log`.

    The process gets a group of its own, so that the runner can end it with everything it started.
    """
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    path = Path(results)
    try:
        module, _, function = call.partition(":")
        for row in getattr(importlib.import_module(module), function)(context):
            append_row(path, row)
    except NotRun as reason:
        append(path, {"not run": str(reason)})
    except BaseException as error:  # whatever ends a section is its result
        traceback.print_exc()
        append(path, {"failed": in_one_line(error)})
    else:
        append(path, {"ended": True})
    append(path, {"cpu": sum(os.times()[:4])})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads and loaders that a failed section left behind cannot hold it


def in_one_line(error: BaseException) -> str:
    """The error's class and the first line of its text."""
    text = str(error).strip().partition("\n")[0]
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: {text}" if text else "out of memory"
    return f"{name}: {text}" if text else name
