"""Runs sections one after another, each in a process of its own under a time limit, and writes the table after each.

The processes are forked from a server that has imported torch and touched no GPU, which saves each of them its start-up; `spawn`
starts a fresh interpreter instead. A section that fails, hangs or runs out of memory costs only itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import worker
from benchmarks.gpu.report import NAME, write_report
from benchmarks.gpu.rows import Context, Row, append_row, read_records
from benchmarks.gpu.sections import Section

PASS, FAIL, NOT_RUN = "pass", "fail", "not run"
_LEAST_SHARE = 0.2
"""A section is not begun with less than this share of its limit left of the budget."""


_CPU_PATIENCE = 10
"""Limits are those of a GPU; a rehearsal may share two cores with much else."""
_END_LIMIT = 10.0
"""Seconds to wait for an ended process."""


@dataclass
class Result:
    """What came of a section."""

    section: Section
    status: str
    reason: str = ""
    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of processors, of the section and the processes it waited for; 0 if it was ended."""
    rows: list[Row] = field(default_factory=list)


@dataclass
class Runner:
    """Runs sections within a budget.

    Args:
        out: folder of the report, the logs and scratch files.
        device: cuda or cpu.
        model: base or tiny.
        seconds: the budget.
        start: start method of the processes, forkserver or spawn.
    """

    out: Path
    device: str
    model: str
    seconds: float
    start: str = "forkserver"
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results: list[Result] = []
        folders = [self.out / name for name in ("logs", "scratch")]
        if not (self.out / f"{NAME}.json").exists() and (foreign := [f for f in folders if f.exists()]):
            raise ValueError(f"{foreign[0]} exists and is not this program's: give another folder")
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._rows = self.out / "scratch" / "rows.jsonl"
        self._use(self.start)

    def _use(self, start: str) -> None:
        self.start = start
        self._context = multiprocessing.get_context(start)
        if start == "forkserver":
            self._context.set_forkserver_preload(["benchmarks.gpu.preload"])

    def run(self, sections: Sequence[Section]) -> bool:
        """Runs all `sections`; returns whether none failed."""
        began = time.monotonic()
        write_report(self, [Result(section, NOT_RUN, "not yet") for section in sections], 0.0)
        for number, section in enumerate(sections):
            left = self.seconds - (time.monotonic() - began)
            result = self._attempt(section, left)
            self.results.append(result)
            waiting = [Result(later, NOT_RUN, "not yet") for later in sections[number + 1 :]]
            write_report(self, [*self.results, *waiting], time.monotonic() - began)
            shown = f"{result.status}: {result.reason}" if result.reason else result.status
            print(f"{section.name}: {shown} ({result.seconds:.0f} s)", flush=True)
        return all(result.status != FAIL for result in self.results)

    def _attempt(self, section: Section, left: float) -> Result:
        missing = [name for name in section.needs if importlib.util.find_spec(name) is None]
        if missing:
            return Result(section, NOT_RUN, f"{', '.join(missing)} is not installed")
        limit = section.seconds * (_CPU_PATIENCE if self.device == "cpu" else 1)
        if left < _LEAST_SHARE * limit:
            return Result(section, NOT_RUN, f"{max(0.0, left):.0f} s of the budget were left")
        result = self._in_process(section, min(limit, left))
        if result.status == FAIL and self.start == "forkserver" and "forked subprocess" in result.reason:
            # Something opened the GPU while the server imported it: fresh interpreters cost seconds each, but work.
            self._use("spawn")
            result = self._in_process(section, min(limit, left))
        return result

    def _in_process(self, section: Section, limit: float) -> Result:
        scratch = self.out / "scratch" / section.name
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        results, log = scratch / "rows.jsonl", self.out / "logs" / f"{section.name}.txt"
        context = Context(self.device, self.model, limit, str(scratch), str(self._rows))
        process = self._context.Process(target=worker.run, args=(section.call, context, str(results), str(log)))  # type: ignore[attr-defined]
        began = time.monotonic()
        process.start()
        try:
            process.join(limit)
            late = process.is_alive()
        finally:
            _end_group(process)
            process.join(_END_LIMIT)  # one that a driver holds cannot be ended: the others run all the same
        result = _judge(section, results, late, limit, process.exitcode, log)
        result.seconds = time.monotonic() - began
        result.cpu = sum(record.get("cpu", 0.0) for record in read_records(results))
        for row in result.rows:
            append_row(self._rows, row)
        shutil.rmtree(scratch, ignore_errors=True)
        return result


def _end_group(process: Any) -> None:
    """Ends a section's process and everything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():  # it has not made its group yet
        process.kill()


def _judge(section: Section, results: Path, late: bool, limit: float, code: int | None, log: Path) -> Result:
    records = read_records(results)
    rows = [Row(**record["row"]) for record in records if "row" in record]
    last = {key: value for record in records if "row" not in record for key, value in record.items()}
    beyond = [f"{row.what} is {row.shown}, not {row.bound}" for row in rows if not row.ok]
    if "not run" in last:
        return Result(section, NOT_RUN, last["not run"], rows=rows)
    if "failed" in last:
        reasons = [last["failed"], *beyond]
    elif late:
        reasons = [f"ended at its limit of {limit:.0f} s", *beyond]
    elif "ended" not in last:
        reasons = [_death(code, log), *beyond]
    else:
        reasons = beyond if rows else ["it checked nothing"]
    return Result(section, FAIL if reasons else PASS, "; ".join(reasons), rows=rows)


def _death(code: int | None, log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = f": {last}" if last else ""
    if code == -signal.SIGKILL:
        return f"killed, as the system does when memory runs out{said}"
    return f"died with signal {-code}{said}" if code is not None and code < 0 else f"died with exit code {code}{said}"
