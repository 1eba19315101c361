"""Reads loss curves of runs, compares two, and warns when a run leaves the band around measured curves.

A band gives the lowest and highest plausible loss of a recipe over its run, measured on successful runs. Its x axis is epochs, so
runs with other batch sizes and speeds can be compared.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.common.run_files import METRICS_NAME
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PATIENCE = 3
"""Consecutive log lines outside of a band after which the run is reported."""


@dataclass(frozen=True)
class Point:
    """Loss in one log line."""

    step: int
    epoch: float
    loss: float


def read_curve(run: Path, loss: str = "loss") -> list[Point]:
    """Returns the loss of a run from its log; if a step was repeated, the later one counts.

    Raises:
        UserError: there is no log, or no such number in it.
    """
    path = run / METRICS_NAME if run.is_dir() else run
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        records = [record for line in lines if (record := json.loads(line))["kind"] == "step"]
        points = {r["step"]: Point(int(r["step"]), float(r["epoch"]), float(r[loss])) for r in records if r.get(loss) is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the log of a run ({error}): give the folder of a run") from None
    if not points:
        raise ConfigError(f"{path} has no step with {loss}: give another run or another loss")
    return [points[step] for step in sorted(points)]


@dataclass(frozen=True)
class Band:
    """Bounds of a loss at `epochs`, linearly interpolated between them."""

    recipe: str
    loss: str
    epochs: list[float]
    low: list[float]
    high: list[float]
    source: dict[str, Any] = field(default_factory=dict)
    """Origin of the measurement."""

    def at(self, epoch: float) -> tuple[float, float] | None:
        """Returns lowest and highest loss at `epoch`; None outside of the measured range."""
        if not self.epochs[0] <= epoch <= self.epochs[-1]:
            return None
        place = max(1, bisect_left(self.epochs, epoch))
        before, after = self.epochs[place - 1], self.epochs[place]
        share = (epoch - before) / (after - before)
        low, high = (values[place - 1] + share * (values[place] - values[place - 1]) for values in (self.low, self.high))
        return low, high

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Band:
        """Reads a file that `save` wrote. Raises `DataError` for any other file."""
        try:
            band = cls(**json.loads(path.read_text(encoding="utf-8")))
            rising = all(a < b for a, b in zip(band.epochs, band.epochs[1:], strict=False))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is not a loss band ({error}): give a band that `albef-ds compare-curve` wrote") from None
        if not rising or not 2 <= len(band.epochs) == len(band.low) == len(band.high):
            raise DataError(f"{path} is not a loss band (epochs must rise, with a low and a high for each): write it again")
        return band


def make_band(curves: Sequence[Sequence[Point]], recipe: str, loss: str, margin: float, source: dict[str, Any]) -> Band:
    """Returns the band around `curves`: lowest and highest loss among neighbouring lines, widened by `margin` of the loss."""
    end = min(curve[-1].epoch for curve in curves)
    epochs = sorted({point.epoch for curve in curves for point in curve if point.epoch <= end})
    low, high = [], []
    for place in range(len(epochs)):
        first, last = epochs[max(0, place - 1)], epochs[min(len(epochs) - 1, place + 1)]
        near = [point.loss for curve in curves for point in curve if first <= point.epoch <= last]
        low.append(round(min(near) * (1 - margin), 4))
        high.append(round(max(near) * (1 + margin), 4))
    return Band(recipe, loss, [round(epoch, 4) for epoch in epochs], low, high, source)


class BandMonitor:
    """Watches a run's log lines and reports once when it leaves its band and once when it returns."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self.outside = 0
        self.left: list[Point] = []
        """Points at which the run left the band."""

    def look(self, point: Point) -> str:
        """Returns a line for the log when the run leaves the band or returns to it, else ''."""
        bounds = self.band.at(point.epoch)
        if bounds is None:
            return ""
        low, high = bounds
        name = f"the band of recipe {self.band.recipe} ({low:.4g} to {high:.4g} at epoch {point.epoch:.2f})"
        if low <= point.loss <= high:
            was, self.outside = self.outside, 0
            return f"step {point.step}: {self.band.loss} {point.loss:.4g} is within {name} again" if was >= PATIENCE else ""
        self.outside += 1
        if self.outside != PATIENCE:
            return ""
        self.left.append(point)
        side = "above" if point.loss > high else "below"
        return f"step {point.step}: {self.band.loss} {point.loss:.4g} is {side} {name} for {PATIENCE} log lines in a row"


def band_of(recipe: str) -> Path | None:
    """Returns the file of a recipe's measured band, None if there is none."""
    path = ASSETS / f"band-{recipe}.json"
    return path if recipe and path.is_file() else None


def monitor_of(config: RunConfig) -> BandMonitor | None:
    """Returns a monitor if the recipe has a band and no setting that affects the curve was changed, else None."""
    path = band_of(config.recipe)
    if path is None:
        return None
    recipe = get_recipe(config.recipe)
    same = all(getattr(config, section) == getattr(recipe, section) for section in ("model", "task", "optim"))
    return BandMonitor(Band.load(path)) if same and config.train.global_batch_size == recipe.train.global_batch_size else None


def largest_difference(ours: Sequence[Point], theirs: Sequence[Point]) -> tuple[float, Point, int]:
    """Returns the largest relative difference at common steps, our point there, and the number of common steps.

    Raises:
        ConfigError: there is no common step.
    """
    known = {point.step: point.loss for point in theirs}
    both = [point for point in ours if point.step in known]
    shared = [(abs(point.loss - known[point.step]) / max(abs(known[point.step]), 1e-12), point) for point in both]
    if not shared:
        raise ConfigError("the two runs have no logged step in common: compare runs with the same train.log_every")
    difference, point = max(shared, key=lambda pair: pair[0])
    return difference, point, len(shared)
