"""Reads a run's `metrics.jsonl` as series for plots and tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albef_ds.common.errors import DataError


@dataclass(frozen=True)
class MetricsLog:
    """Logged training steps and evaluations of a run, in order. If a resumed run repeated a step, the later record counts."""

    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> MetricsLog:
        """Reads `path` without a last line that is still being written. Raises `DataError` if a line is no record, or no file."""
        by_step: dict[str, dict[int, dict[str, Any]]] = {"step": {}, "evaluation": {}}
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): give the folder of a run") from None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                by_step.setdefault(record["kind"], {})[int(record["step"])] = record
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path} line {number} is not a record of a run: remove that line") from None
        steps, evaluations = ([found[step] for step in sorted(found)] for found in (by_step["step"], by_step["evaluation"]))
        return cls(steps, evaluations)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Returns steps and finite values of the number `name`."""
        return _series(self.steps, name)

    def scores(self, name: str) -> tuple[list[int], list[float]]:
        """Returns steps and values of the evaluations' metric `name`."""
        return _series(self.evaluations, name)

    def last(self, name: str) -> float | None:
        """Returns the last value of `name`, None if there is none."""
        values = self.series(name)[1]
        return values[-1] if values else None


def _series(records: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    pairs = [(record["step"], record[name]) for record in records if isinstance(record.get(name), (int, float))]
    return [step for step, _ in pairs], [float(value) for _, value in pairs]
