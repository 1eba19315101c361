"""Compares the nodes' reports and finds the nodes that cannot be used for training. Uses no network or files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from albef_ds.launch.checks.node import NodeReport

MAX_SKEW = 5.0
"""Seconds by which clocks may differ, because time limits and file times are compared across nodes."""


@dataclass(frozen=True)
class Comparison:
    """Faults by node, in the order of the nodes; empty if all nodes are fine."""

    faults: dict[str, list[str]]
    num_nodes: int

    @property
    def bad_nodes(self) -> list[str]:
        """Nodes to leave out; none if every node has a fault, because then the run is wrong, not the nodes."""
        return list(self.faults) if 0 < len(self.faults) < self.num_nodes else []


def compare(nodes: Sequence[str], reports: dict[str, NodeReport], seconds: float, max_skew: float = MAX_SKEW) -> Comparison:
    """Compares the `reports` of `nodes`; some may not have arrived within `seconds`."""
    faults: dict[str, list[str]] = {node: [] for node in nodes}
    for node in nodes:
        report = reports.get(node)
        if report is None:
            faults[node].append(f"did not answer within {seconds:.0f} s")
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
    return Comparison({node: found for node, found in faults.items() if found}, len(nodes))


def table(nodes: Sequence[str], reports: dict[str, NodeReport], compared: Comparison) -> str:
    """Returns one line per node, and a line of the facts that are the same everywhere."""
    lines = []
    for node in nodes:
        report = reports.get(node)
        if node in compared.faults:
            lines += [f"preflight: {node}: BAD, {fault}" for fault in compared.faults[node]]
        elif report is not None:
            free = ", ".join(f"{gb:g} GB free for {name}" for name, gb in report.free_gb.items())
            speed = "" if report.bandwidth is None else f", all-reduce {report.bandwidth:.2f} GB/s"
            lines.append(f"preflight: {node}: fine, clock {report.clock_offset:+.3f} s, {free}{speed}")
    same = next((report.facts for node, report in reports.items() if node not in compared.faults), {})
    if same:
        lines.append("preflight: " + ", ".join(f"{name} {value}" for name, value in same.items()))
    return "\n".join(lines)


def _most_common(values: list[str]) -> str:
    """Returns the most frequent value; of equally frequent ones the first, which is the head's."""
    counts = Counter(values)
    most = max(counts.values())
    return next(value for value in values if counts[value] == most)
