"""The main metric of a task, by which checkpoints are chosen. Does not import torch: `albef-ds runs` uses it."""

from __future__ import annotations

from collections.abc import Mapping

from albef_ds.common.errors import DataError
from albef_ds.config.schema import RunConfig


def main_metric_name(config: RunConfig, metrics: Mapping[str, object]) -> str | None:
    """The name of the task's main metric in `metrics`; None if it is missing."""
    for name in config.task.main_metrics:
        if name in metrics:
            return name
        # Without re-ranking or proposals, take the first metric with the same beginning.
        if similar := [key for key in metrics if key.startswith(name.rsplit("_", 1)[0])]:
            return similar[0]
    return None


def main_metric(config: RunConfig, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Name and value of the task's main metric.

    Raises:
        DataError: the split has no main metric, for example questions without answers.
    """
    name = main_metric_name(config, metrics)
    if name is None:
        names = " or ".join(config.task.main_metrics)
        raise DataError(f"data.eval_annotations gives no {names}, so no checkpoint can be chosen: give files with answers")
    return name, metrics[name]
