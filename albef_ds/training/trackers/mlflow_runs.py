"""MLflow. Where it records is its own setting: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from albef_ds.training.trackers.interface import TrackedRun, Tracker

_AT_ONCE, _LONGEST = 100, 500
"""MLflow's limits: parameters and metrics per call, letters of a value."""
_OWN_ID = "albef_ds.run"
"""Tag by which a resumed run is found again."""


def open_run(run: TrackedRun) -> Tracker:
    """Goes on in the MLflow run that carries the run's id, or begins one."""
    client = MlflowClient()
    experiment = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.project)
    found = client.search_runs([experiment], f"tags.`{_OWN_ID}` = '{run.id}'", max_results=1)
    if found:
        number = found[0].info.run_id
        client.update_run(number, RunStatus.to_string(RunStatus.RUNNING))
        return MlflowTracker(client, number, list(found[0].data.metrics))
    number = client.create_run(experiment, run_name=run.name, tags={_OWN_ID: run.id}).info.run_id
    # Parameters cannot be changed later, so a resumed run keeps those of its first start.
    params = [Param(name, str(value)[:_LONGEST]) for name, value in run.settings.items()]
    for part in _parts(params):
        client.log_batch(number, params=part)
    return MlflowTracker(client, number, [])


class MlflowTracker:
    """An open run. MLflow keeps a step that is recorded twice twice, so repeated steps of a resumed run are left out."""

    def __init__(self, client: MlflowClient, number: str, known: list[str]) -> None:
        self._client, self._number = client, number
        self._last = {name: max(metric.step for metric in client.get_metric_history(number, name)) for name in known}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records finite numbers; others are counted as `NAME.not_finite`, because MLflow turns infinity into a number."""
        named = {_name(name): float(value) for name, value in values.items()}
        named |= {f"{name}.not_finite": 1.0 for name, value in named.items() if not math.isfinite(value)}
        fresh = [(name, value) for name, value in named.items() if math.isfinite(value) and step > self._last.get(name, -1)]
        self._last |= dict.fromkeys((name for name, _ in fresh), step)
        for part in _parts([Metric(name, value, int(time.time() * 1000), step) for name, value in fresh]):
            self._client.log_batch(self._number, metrics=part)

    def image(self, step: int, name: str, png: bytes) -> None:
        """Records an image as the artifact NAME/STEP.png."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{step:07d}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._number, str(path), _name(name))

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._number)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # another run has made it meanwhile
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _name(name: str) -> str:
    """A name of letters, digits and _-./ and spaces, which MLflow takes."""
    return "".join(mark if mark.isalnum() or mark in "_-. /" else "_" for mark in name)


def _parts(entries: list[Any]) -> Iterator[list[Any]]:
    rest = iter(entries)
    while part := list(islice(rest, _AT_ONCE)):
        yield part
