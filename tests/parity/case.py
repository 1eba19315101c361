"""One golden case on disk, and the list of deviations that a comparison with it yields."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.recipe import fingerprint

# (fp32, fp64) bounds. Losses, arrays and gradients: as the golden set's README states them. Weights: the released code's own
# fp32 run strays from its fp64 run by up to 4.7e-4 relative after three AdamW steps. In fp64 it keeps one-hot targets in fp32,
# which is worth 2e-8 per target.
BOUNDS = {
    "loss": (2e-5, 1e-6),
    "finetune loss": (1e-4, 1e-6),
    "temperature": (2e-5, 1e-6),
    "array": (1e-4, 1e-4),
    "gradient": (5e-5, 1e-6),
    "momentum": (1e-6, 1e-6),
    "parameter": (1e-3, 1e-5),
    "queue": (1e-5, 1e-6),
    "probability": (1e-5, 1e-6),
    "exact": (0.0, 0.0),
}


@dataclass
class Deviations:
    """Worst deviation per quantity; `kind` of each picks its bound."""

    precision: str
    worst: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, quantity: str, kind: str, deviation: float) -> None:
        """Record |ours - golden| in the unit of the bound; NaN counts as infinite."""
        deviation = float("inf") if deviation != deviation else float(deviation)
        bound = BOUNDS[kind][0 if self.precision == "fp32" else 1]
        self.worst[quantity] = (max(deviation, self.worst.get(quantity, (0.0, 0.0))[0]), bound)

    @property
    def ok(self) -> bool:
        """Whether anything was compared and all of it lies within its bound."""
        return bool(self.worst) and all(deviation <= bound for deviation, bound in self.worst.values())


class GoldenCase:
    """`{kind}_a{alpha}_{distill|nodistill}` of a golden directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.data: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
        arrays = directory / f"{name}.npz"
        self.arrays = dict(np.load(arrays, allow_pickle=False)) if arrays.exists() else {}

    @property
    def alpha(self) -> float:
        """Weight of the pseudo-targets in this case."""
        return float(self.data["alpha"])

    def numbers(self, precision: str) -> dict[str, Any]:
        """The results of the released code's run in `precision`."""
        numbers: dict[str, Any] = self.data["float32" if precision == "fp32" else "float64"]
        return numbers

    def parameter_names(self) -> set[str]:
        """Released names of all weights, tied ones once, buffers left out."""
        names = {name for name in self.data["state_dict"] if not name.endswith(("queue", "queue_ptr", "position_ids"))}
        return names - set(self.data["aliases"])


def compare_fingerprint(got: Tensor, golden: list[float], name: str, scale: float | None = None) -> float:
    """Largest deviation of norm and projection, over `scale` or else the golden norm."""
    ours = fingerprint(got.detach().double().cpu().numpy(), name)
    return max(abs(a - b) for a, b in zip(ours, golden, strict=True)) / (scale or max(golden[0], 1e-12))


def compare_array(got: Tensor, golden: np.ndarray[Any, Any]) -> float:
    """Largest absolute deviation; infinite where the shapes differ."""
    if tuple(got.shape) != golden.shape:
        return float("inf")
    return float((got.detach().double().cpu() - torch.from_numpy(golden).double()).abs().max())
