"""Selects the checkpoints of a run to keep: the last K, every M steps, and the best by an evaluation metric."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from albef_ds.common.atomic_files import write_json
from albef_ds.common.run_files import BEST_NAME, SCORES_NAME, complete_steps, step_folder

LOWER = "-"
"""Prefix of a metric's name that means lower is better."""


def keep(steps: Iterable[int], *, last: int, every: int, best: int | None) -> set[int]:
    """The steps to keep. `last` 0 keeps all; `every` 0 disables keeping multiples."""
    ordered = sorted(steps)
    if last == 0:
        return set(ordered)
    return {step for step in ordered if step in ordered[-last:] or (every and step % every == 0) or step == best}


def record_scores(root: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Stores the evaluation at `step`."""
    write_json(root / SCORES_NAME, {**_scores(root), str(step): dict(metrics)}, indent=1)


def best_step(root: Path, metric: str) -> int | None:
    """The finished checkpoint with the best evaluation at its own step; None if no checkpoint has the metric."""
    sign, name = (-1.0, metric.removeprefix(LOWER)) if metric.startswith(LOWER) else (1.0, metric)
    scores = _scores(root)
    known = {step: sign * scores[str(step)][name] for step in complete_steps(root) if name in scores.get(str(step), {})}
    return max(known, key=lambda step: (known[step], step), default=None)


def tidy(root: Path, *, last: int, every: int, metric: str, spared: int | None = None) -> None:
    """Writes the best checkpoint to `best.json` and deletes those that need not be kept, but not that of step `spared`."""
    best = best_step(root, metric) if metric else None
    if best is not None:
        value = _scores(root)[str(best)][metric.removeprefix(LOWER)]
        write_json(root / BEST_NAME, {"folder": step_folder(best), "metric": metric, "value": value})
    steps = complete_steps(root)
    for step in set(steps) - keep(steps, last=last, every=every, best=best) - {spared}:
        # Renamed first: a partly deleted folder must not look like a checkpoint.
        doomed = root / f"{step_folder(step)}.old.tmp"
        os.replace(root / step_folder(step), doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _scores(root: Path) -> dict[str, dict[str, float]]:
    try:
        scores: dict[str, dict[str, float]] = json.loads((root / SCORES_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return scores
