"""The metric that a run's checkpoints are chosen by. Needs no torch: a list of runs shows it."""

from __future__ import annotations

from collections.abc import Mapping

from albef_ds.common.errors import DataError
from albef_ds.config.schema import RunConfig


def main_metric_name(config: RunConfig, metrics: Mapping[str, object]) -> str | None:
    """The name of the task's main metric among `metrics`, None if it is not there."""
    for name in config.task.main_metrics:
        if name in metrics:
            return name
        # Without re-ranking or proposals the next of the same beginning serves.
        similar = [key for key in metrics if key.startswith(name.rsplit("_", 1)[0])]
        if similar:
            return similar[0]
    return None


def main_metric(config: RunConfig, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Name and value of the task's main metric.

    Raises:
        DataError: the split has none, such as questions without answers.
    """
    name = main_metric_name(config, metrics)
    if name is None:
        names = " or ".join(config.task.main_metrics)
        raise DataError(f"data.eval_annotations gives no {names}, so no checkpoint can be chosen: give files with answers")
    return name, metrics[name]
