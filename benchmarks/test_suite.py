"""Compares two runs of `make test`: wall time, test time and the slowest twenty tests of both, from pytest's JUnit files.

Make the files on a quiet machine, one after the other in one sitting, the second time that each commit is tested: what is
compiled once is compiled by then.

    .venv/bin/python -m pytest -n 3 --dist worksteal --junitxml=FILE
    python -m benchmarks.test_suite BEFORE.xml AFTER.xml --out benchmarks/test_suite
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.record import record_parser, write_record

SLOWEST = 20


@dataclass(frozen=True)
class Run:
    """One run of the tests: seconds from begin to end, and of every test by its name."""

    wall: float
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds in tests, summed over the workers that ran side by side."""
        return sum(self.seconds.values())

    @property
    def slowest(self) -> list[tuple[str, float]]:
        """The slowest tests with their seconds, slowest first."""
        return sorted(self.seconds.items(), key=lambda item: -item[1])[:SLOWEST]


def read(path: Path) -> Run:
    """Returns the run that pytest wrote to `path` with --junitxml.

    Raises:
        ValueError: the file holds no test suite.
    """
    suite = ElementTree.parse(path).getroot().find("testsuite")
    if suite is None:
        raise ValueError(f"{path} holds no test suite: write it with pytest --junitxml")
    seconds = {f"{case.get('classname')}::{case.get('name')}": float(case.get("time", "0")) for case in suite.iter("testcase")}
    return Run(float(suite.get("time", "0")), seconds)


def added(before: Run, after: Run) -> list[float]:
    """Returns the seconds of the tests of the later run whose name, apart from their module, the earlier one does not have."""
    known = {name.partition("::")[2] for name in before.seconds}
    return [seconds for name, seconds in after.seconds.items() if name.partition("::")[2] not in known]


def rows(before: Run, after: Run) -> list[dict[str, Any]]:
    """The slowest tests side by side; a column belongs to one run, so a row compares nothing."""
    table = []
    for place, (old, new) in enumerate(zip(before.slowest, after.slowest, strict=False), start=1):
        table.append({"place": place, "before (s)": f"{old[1]:.1f}", "test before": old[0]})
        table[-1] |= {"after (s)": f"{new[1]:.1f}", "test after": new[0]}
    return table


def main() -> None:
    """Reads both files and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("before", type=Path, help="JUnit file of the earlier commit")
    parser.add_argument("after", type=Path, help="JUnit file of the later commit")
    arguments = parser.parse_args()
    before, after = read(arguments.before), read(arguments.after)
    new = added(before, after)
    notes = [
        f"Wall time of pytest: {before.wall:.0f} s before, {after.wall:.0f} s after ({after.wall / before.wall:.0%}).",
        f"{len(before.seconds)} tests took {before.total:.0f} s before, {len(after.seconds)} took {after.total:.0f} s after,",
        f"summed over the workers; {len(new)} of these, {sum(new):.0f} s, have a name that the earlier run does not have.",
        "The slowest of each run:",
    ]
    facts = {"wall_before": before.wall, "wall_after": after.wall, "total_before": before.total, "total_after": after.total}
    write_record(arguments.out, "The time of the tests", notes, rows(before, after), ["pytest", "pytest-xdist"], facts)


if __name__ == "__main__":
    main()
