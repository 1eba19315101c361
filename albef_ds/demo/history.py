"""What a run's `metrics.jsonl` says, as series for plots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_ds.errors import ConfigError


@dataclass(frozen=True)
class History:
    """The written training steps of a run, in order; a step that was repeated after a resume counts as last written."""

    steps: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> History:
        """Read `path`. Raises `ConfigError` naming the line that is no JSON object, or a missing file."""
        by_step: dict[int, dict[str, Any]] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): give the folder of a run") from None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if record["kind"] == "step":
                    by_step[int(record["step"])] = record
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"{path} line {number} is no record of a run: remove that line") from None
        return cls([by_step[step] for step in sorted(by_step)])

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of the number `name`, where it is finite."""
        pairs = [(record["step"], record[name]) for record in self.steps if isinstance(record.get(name), (int, float))]
        return [step for step, _ in pairs], [float(value) for _, value in pairs]

    def last(self, name: str) -> float | None:
        """The last value of `name`, None if there is none."""
        values = self.series(name)[1]
        return values[-1] if values else None
