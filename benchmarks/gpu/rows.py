"""What a section of the suite is given and what it yields. Imports nothing but the standard library."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class NotRun(Exception):  # noqa: N818  (not an error)
    """Raised by a section that cannot run here; the text is the reason, one line."""


@dataclass(frozen=True)
class Row:
    """One figure, with the bounds it has to keep."""

    what: str
    value: float | str
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the figure is a number within its bounds; a text has none."""
        if isinstance(self.value, str):
            return True
        high = math.inf if self.at_most is None else self.at_most
        low = -math.inf if self.at_least is None else self.at_least
        return low <= self.value <= high  # False for NaN

    @property
    def shown(self) -> str:
        """The figure with its unit."""
        return self.value if isinstance(self.value, str) else f"{self.value:.4g} {self.unit}".rstrip()

    @property
    def bound(self) -> str:
        """The bounds in words."""
        parts = [
            f"{word} {bound:.3g}" for word, bound in (("at most", self.at_most), ("at least", self.at_least)) if bound is not None
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Context:
    """How a section runs."""

    device: str
    """cuda or cpu."""
    model: str
    """base, or tiny: sizes for a test of the program, whose figures mean nothing."""
    seconds: float
    """Its time limit."""
    folder: str
    """Scratch folder of the section."""
    rows: str
    """File with all rows of the sections before."""

    @property
    def real(self) -> bool:
        """Whether targets of speed and memory are to be met."""
        return self.device == "cuda" and self.model == "base"

    def earlier(self, what: str) -> float | None:
        """The figure of an earlier section, or None."""
        for row in read_rows(Path(self.rows)):
            if row.what == what and not isinstance(row.value, str):
                return row.value
        return None


def append(path: Path, record: dict[str, Any]) -> None:
    """Adds a line of JSON to a file."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def append_row(path: Path, row: Row) -> None:
    """Adds a row to a file of rows."""
    append(path, {"row": asdict(row)})


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of rows; a last line that was cut off is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def read_rows(path: Path) -> list[Row]:
    """The rows of a file."""
    return [Row(**record["row"]) for record in read_records(path) if "row" in record]
