"""From the nodes' reports to the nodes that cannot be trained with. Pure: no network, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from albef_ds.launch.checks.node import Report

MAX_SKEW = 5.0
"""Seconds by which clocks may differ: time limits and file times are compared across nodes."""


@dataclass(frozen=True)
class Verdict:
    """Faults by node, in the order of the nodes; empty if all are fine."""

    faults: dict[str, list[str]]
    num_nodes: int

    @property
    def bad_nodes(self) -> list[str]:
        """The nodes to leave out; none when every node has a fault, for then the run is at fault, not the nodes."""
        return list(self.faults) if 0 < len(self.faults) < self.num_nodes else []


def judge(nodes: Sequence[str], reports: dict[str, Report], seconds: float, max_skew: float = MAX_SKEW) -> Verdict:
    """Compare the `reports` of `nodes`, of which some may not have come within `seconds`."""
    faults: dict[str, list[str]] = {node: [] for node in nodes}
    for node in nodes:
        report = reports.get(node)
        if report is None:
            faults[node].append(f"gave no answer within {seconds:.0f} s")
            continue
        faults[node] += report.faults
        if abs(report.clock_offset) > max_skew:
            ahead = "ahead" if report.clock_offset > 0 else "behind"
            faults[node].append(f"clock: {abs(report.clock_offset):.1f} s {ahead} of {nodes[0]}")
    for name in sorted({name for report in reports.values() for name in report.facts}):
        values = {node: report.facts[name] for node, report in reports.items() if name in report.facts}
        common = _most_common(list(values.values()))
        for node, value in values.items():
            if value != common:
                faults[node].append(f"{name}: {value}, the others have {common}")
    return Verdict({node: found for node, found in faults.items() if found}, len(nodes))


def table(nodes: Sequence[str], reports: dict[str, Report], verdict: Verdict) -> str:
    """One line per node, and what is the same everywhere."""
    lines = []
    for node in nodes:
        report = reports.get(node)
        if node in verdict.faults:
            lines += [f"preflight: {node}: BAD, {fault}" for fault in verdict.faults[node]]
        elif report is not None:
            free = ", ".join(f"{gb:g} GB free for {name}" for name, gb in report.free_gb.items())
            speed = "" if report.bandwidth is None else f", all-reduce {report.bandwidth:.2f} GB/s"
            lines.append(f"preflight: {node}: fine, clock {report.clock_offset:+.3f} s, {free}{speed}")
    same = next((report.facts for node, report in reports.items() if node not in verdict.faults), {})
    if same:
        lines.append("preflight: " + ", ".join(f"{name} {value}" for name, value in same.items()))
    return "\n".join(lines)


def _most_common(values: list[str]) -> str:
    """The value of most nodes; of equally many, the head's side, whose values come first."""
    counts = Counter(values)
    most = max(counts.values())
    return next(value for value in values if counts[value] == most)
