"""Writes the suite's report: gpu.json and gpu.md, with a table of all sections and every figure."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from benchmarks.record import hardware

if TYPE_CHECKING:
    from benchmarks.gpu.runner import Result, Runner

PACKAGES = ("torch", "triton", "deepspeed", "timm", "transformers", "numpy")
NAME = "gpu"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter; `-` for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def write_report(runner: Runner, results: list[Result], seconds: float) -> None:
    """Writes both files anew; a reader never sees half of one."""
    head = {
        "command": "python -m benchmarks.gpu",
        **runner.facts,
        "device": runner.device,
        "model": runner.model,
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "seconds": round(seconds, 1),
    }
    sections = [
        {
            "name": r.section.name,
            "status": r.status,
            "reason": r.reason,
            "seconds": round(r.seconds, 1),
            "cpu seconds": round(r.cpu, 1),
            "rows": [asdict(w) for w in r.rows],
        }
        for r in results
    ]
    for ending, text in ((".json", json.dumps({**head, "sections": sections}, indent=1)), (".md", _page(head, results))):
        path = runner.out / f"{NAME}{ending}"
        path.with_suffix(f"{ending}.part").write_text(text + "\n")
        os.replace(path.with_suffix(f"{ending}.part"), path)


def _page(head: dict[str, Any], results: list[Result]) -> str:
    installed = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    figures = "" if head["device"] == "cuda" else " A rehearsal without a GPU: no figure here is to be quoted."
    lines = [
        "# GPU suite",
        "",
        f"`{head['command']}`, {head['date']}, {head['seconds']:.0f} s. {head['hardware']}; {installed}.{figures}",
        "",
        "| section | what | result | s | reason |",
        "|---|---|---|---:|---|",
    ]
    lines += [
        f"| {r.section.name} | {r.section.title} | {r.status} | {r.seconds:.0f} | {r.reason.replace('|', '/')} |" for r in results
    ]
    for result in results:
        if result.rows:
            lines += ["", f"## {result.section.name}: {result.section.title}", "", "| what | figure | bound |", "|---|---:|---|"]
            lines += [f"| {row.what} | {row.shown} | {row.bound}{'' if row.ok else ' (missed)'} |" for row in result.rows]
    return "\n".join(lines)
