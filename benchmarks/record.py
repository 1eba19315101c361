"""Writes a record of a measurement as JSON and Markdown: command, hardware, versions, date, figures. Measures nothing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any


def record_parser(description: str | None, out: str = "") -> argparse.ArgumentParser:
    """A parser with `--out`, the name of the record without ending; the option is required unless `out` is its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    meaning = "record without ending: writes .json and .md"
    parser.add_argument("--out", type=Path, required=not out, default=Path(out) if out else None, help=meaning)
    return parser


def hardware() -> str:
    """Processor, cores, memory and load of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1e6
    return f"{model or platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GB; load average {os.getloadavg()[0]:.1f}"


def write_record(
    out: Path,
    title: str,
    notes: list[str],
    rows: list[dict[str, Any]],
    packages: list[str],
    facts: dict[str, Any],
    *,
    quiet: bool = False,
) -> None:
    """Writes OUT.json and OUT.md, and prints the page unless `quiet`; the table's columns are the keys of the first of `rows`."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    command = shlex.join(["python", "-m", Path(sys.argv[0]).stem.join(["benchmarks.", ""]), *sys.argv[1:]])
    head = {"command": command, "date": date.today().isoformat(), "hardware": hardware(), "versions": versions, **facts}
    out.with_suffix(".json").write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    installed = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [f"# {title}", "", f"`{command}`, {head['date']}. {head['hardware']}; {installed}.", "", *notes, ""]
    if rows:
        lines += ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    if not quiet:
        print("\n".join(lines))
