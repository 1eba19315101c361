"""Loss curves: reading them from a run, comparing two, and bands around measured ones that alarm early.

A band gives the lowest and highest plausible loss of a recipe over its run, measured on runs that went well. Its x axis is
passes over the data, so runs of other batch sizes and speeds compare.
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
"""Log lines in a row outside of a band before it counts."""


@dataclass(frozen=True)
class Point:
    """One log line."""

    step: int
    epoch: float
    loss: float


def read_curve(run: Path, loss: str = "loss") -> list[Point]:
    """The loss of a run by its log; of a step done twice the later one counts.

    Raises:
        UserError: no log, or no such number in it.
    """
    path = run / METRICS_NAME if run.is_dir() else run
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        records = [record for line in lines if (record := json.loads(line))["kind"] == "step"]
        points = {r["step"]: Point(int(r["step"]), float(r["epoch"]), float(r[loss])) for r in records if r.get(loss) is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no log of a run ({error}): give the folder of a run") from None
    if not points:
        raise ConfigError(f"{path} has no step with {loss}: give another run or another loss")
    return [points[step] for step in sorted(points)]


@dataclass(frozen=True)
class Band:
    """Bounds of a loss at `epochs`, with straight lines between them."""

    recipe: str
    loss: str
    epochs: list[float]
    low: list[float]
    high: list[float]
    source: dict[str, Any] = field(default_factory=dict)
    """Where it was measured."""

    def at(self, epoch: float) -> tuple[float, float] | None:
        """Lowest and highest loss at `epoch`; None outside of what was measured."""
        if not self.epochs[0] <= epoch <= self.epochs[-1]:
            return None
        place = max(1, bisect_left(self.epochs, epoch))
        before, after = self.epochs[place - 1], self.epochs[place]
        share = (epoch - before) / (after - before)
        low, high = (values[place - 1] + share * (values[place] - values[place - 1]) for values in (self.low, self.high))
        return low, high

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Band:
        """Read what `save` wrote. Raises `DataError` for anything else."""
        try:
            band = cls(**json.loads(path.read_text(encoding="utf-8")))
            rising = all(a < b for a, b in zip(band.epochs, band.epochs[1:], strict=False))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is no loss band ({error}): give a band that `albef-ds compare-curve` wrote") from None
        if not rising or not 2 <= len(band.epochs) == len(band.low) == len(band.high):
            raise DataError(f"{path} is no loss band (epochs must rise, with a low and a high for each): write it again")
        return band


def make_band(curves: Sequence[Sequence[Point]], recipe: str, loss: str, margin: float, source: dict[str, Any]) -> Band:
    """The band around `curves`: their lowest and highest loss among neighbouring lines, widened by `margin` of the loss."""
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
    """Watches a run's log lines and tells once when it leaves its band, once when it comes back."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self.outside = 0
        self.left: list[Point] = []
        """Where the run left the band."""

    def look(self, point: Point) -> str:
        """A line for the log when the run leaves the band or comes back; else empty."""
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
    """The band that comes with a recipe, if one was measured."""
    path = ASSETS / f"band-{recipe}.json"
    return path if recipe and path.is_file() else None


def monitor_of(config: RunConfig) -> BandMonitor | None:
    """Watches a run whose recipe has a band, unless settings that shape the curve were changed."""
    path = band_of(config.recipe)
    if path is None:
        return None
    recipe = get_recipe(config.recipe)
    same = all(getattr(config, section) == getattr(recipe, section) for section in ("model", "task", "optim"))
    return BandMonitor(Band.load(path)) if same and config.train.global_batch_size == recipe.train.global_batch_size else None


def largest_difference(ours: Sequence[Point], theirs: Sequence[Point]) -> tuple[float, Point, int]:
    """Largest relative difference at steps that both have, our point there, and how many steps they share.

    Raises:
        ConfigError: no step in common.
    """
    known = {point.step: point.loss for point in theirs}
    both = [point for point in ours if point.step in known]
    shared = [(abs(point.loss - known[point.step]) / max(abs(known[point.step]), 1e-12), point) for point in both]
    if not shared:
        raise ConfigError("the two runs have no logged step in common: compare runs with the same train.log_every")
    difference, point = max(shared, key=lambda pair: pair[0])
    return difference, point, len(shared)
