"""The real packages, offline: a run that is stopped and resumed is read back through their own interfaces."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import TrainConfig
from albef_ds.training.trackers.interface import TrackedRun
from albef_ds.training.trackers.processes import TrackerProcess, close_all
from tests.data.conftest import numbered_corpus
from tests.docs.readme_world import ONE_STEP

ROOT = Path(__file__).resolve().parents[3]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "PNG")
    return buffer.getvalue()


def start(name: str, folder: Path, *, resumed: bool) -> None:
    """Steps 2 and 4 with an evaluation; then, resumed from the checkpoint at step 2, steps 4 and 6."""
    said: list[str] = []
    settings = {"train.epochs": 1.0, "recipe": "debug", "albef_ds.lineage": "random weights", **{f"s{n}": n for n in range(120)}}
    tracker = TrackerProcess(name, TrackedRun("ab12cd34", "night", "test", folder / name, settings, resumed), said.append)
    for step in (4, 6) if resumed else (2, 4):
        tracker.scalars(step, {"loss": 8.0 / step, "learning_rate": 1e-4, "odd": float("inf"), "evaluation/text.r1": 10.0 * step})
    tracker.image(6 if resumed else 4, "evaluation/grid", png())
    close_all([tracker], 120.0)
    assert said == [], (folder / name / "log.txt").read_text()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each tracker's own means to stay on this machine."""
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "TRACKIO_DIR": str(tmp_path / "trackio_files"),
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_wandb(offline: Path) -> None:
    pytest.importorskip("wandb")
    for resumed in (False, True):
        start("wandb", offline, resumed=resumed)
    folders = sorted((offline / "wandb" / "wandb").glob("offline-run-*-ab12cd34"))
    assert len(folders) == 2  # offline, each start has a folder of the same run; `wandb sync` joins them
    records = [record for folder in folders for record in wandb_records(folder)]
    [first, second] = [record["run"] for record in records if record["type"] == "run"]
    assert (first["run_id"], first["display_name"], first["config"]["update"]["recipe"]) == ("ab12cd34", "night", "debug")
    assert first["run_id"] == second["run_id"] and second["resume"]
    rows = [record["history"] for record in records if record["type"] == "history"]
    losses = [(row["step"]["num"], row["item"]["loss"]) for row in rows if "loss" in row["item"]]
    assert losses == [(2, 4), (4, 2), (4, 2), (6, pytest.approx(8 / 6))]
    assert [row["item"]["odd"] for row in rows] == ["Infinity"] * 4
    assert [row["step"]["num"] for row in rows if row["item"].get("evaluation/grid.width") == 8] == [4, 6]


def test_mlflow(offline: Path) -> None:
    pytest.importorskip("mlflow")
    for resumed in (False, True):
        start("mlflow", offline, resumed=resumed)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert run.info.run_name == "night" and run.info.status == "FINISHED" and run.data.params["recipe"] == "debug"
    assert len(run.data.params) == 123
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(2, 4.0), (4, 2.0), (6, pytest.approx(8 / 6))]
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "odd.not_finite")] == [1.0] * 3
    assert "odd" not in run.data.metrics and run.data.metrics["evaluation/text.r1"] == 60.0
    artifacts = [item.path for item in client.list_artifacts(run.info.run_id, "evaluation/grid")]
    assert artifacts == ["evaluation/grid/0000004.png", "evaluation/grid/0000006.png"]


def test_trackio(offline: Path) -> None:
    pytest.importorskip("trackio")
    for resumed in (False, True):
        start("trackio", offline, resumed=resumed)
    with sqlite3.connect(offline / "trackio_files" / "test.db") as store:
        rows = [
            (name, step, json.loads(values))
            for name, step, values in store.execute("select run_name, step, metrics from metrics order by id")
        ]
    assert {name for name, _, _ in rows} == {"night-ab12cd34"}
    losses = [(step, values["loss"]) for _, step, values in rows if "loss" in values]
    assert losses == [(2, 4.0), (4, 2.0), (4, 2.0), (6, pytest.approx(8 / 6))]
    assert [step for _, step, values in rows if "evaluation/grid" in values] == [4, 6]
    asked = ["--project", "test", "--run", "night-ab12cd34", "--metric", "loss", "--json"]
    command = [sys.executable, "-m", "trackio.cli", "get", "metric", *asked]
    got = subprocess.run(command, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    assert "1.33" in got.stdout


def test_a_run_is_tracked_from_its_settings_and_goes_on_when_resumed(offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackio")
    numbered_corpus(offline / "corpus", 8, 4)
    command = ["train", "--recipe", "debug", f"data.shards={offline}/corpus", "--output", str(offline / "night"), *ONE_STEP]
    command += ["train.trackers=trackio", "train.log_every=1"]
    assert main(command) == 0
    assert main([*command, "--resume", "auto", "train.max_steps=2"]) == 0
    assert "warning: the tracker" not in capfd.readouterr().err
    assert not (offline / "night" / "tensorboard").exists()
    [store] = (offline / "trackio_files").glob("albef*ds.db")
    with sqlite3.connect(store) as opened:
        rows = list(opened.execute("select run_name, step from metrics order by id"))
        [config] = opened.execute("select config from configs limit 1")
    number = (offline / "night" / "trackers" / "id").read_text().strip()
    assert {name for name, _ in rows} == {f"night-{number}"} and [step for _, step in rows] == [1, 2]
    assert json.loads(config[0])["albef_ds.lineage"]


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.trackers has no tracker comet: give some of tensorboard, wandb, mlflow, trackio"
    ):
        TrainConfig(trackers="wandb, comet")
    assert TrainConfig(trackers=" wandb,tensorboard,wandb,").tracker_names == ["wandb", "tensorboard"]
    assert TrainConfig(trackers="").tracker_names == []


def test_a_package_that_is_missing_is_named_before_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not there
    numbered_corpus(tmp_path / "corpus", 8, 4)
    command = ["train", "--recipe", "debug", f"data.shards={tmp_path}/corpus", "--output", str(tmp_path / "run"), *ONE_STEP]
    assert main([*command, "train.trackers=wandb"]) == 2
    assert "wandb is not installed: run `pip install albef-ds[wandb]`" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
