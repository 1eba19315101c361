"""Checkpoints are copied to an object store in the background, complete or absent, and a run resumes from there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.remote import Uploads, remote_steps
from albef_ds.cli.main import main
from albef_ds.common.errors import DataError
from albef_ds.config.schema import TrainConfig
from albef_ds.data.store import objects
from albef_ds.data.store.objects import Store
from tests import servers
from tests.data.conftest import numbered_corpus
from tests.training.test_trainer import numbers

LENGTHS = [
    "train.max_steps=4",
    "train.epochs=1000",
    "train.save_every=1",
    "train.keep_last=2",
    "train.log_every=1",
    "data.num_workers=0",
]


def train(output: Path, *settings: str, resume: bool = False) -> int:
    more = ["--resume", "auto"] if resume else []
    return main(["train", "--recipe", "debug", *LENGTHS, *settings, "--output", str(output), *more])


@pytest.fixture(scope="module", autouse=True)
def _bucket(s3: servers.Faults) -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir("runs")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a small corpus."""
    return f"data.shards={numbered_corpus(tmp_path_factory.mktemp('data') / 'corpus', 40, 10)}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, s3: servers.Faults, data: str) -> Path:
    """A run of 4 steps whose checkpoints are at s3://runs/a."""
    output = tmp_path_factory.mktemp("store") / "run"
    s3.unavailable = s3.cut = s3.reset = 0.03
    assert train(output, data, "train.checkpoint_store=s3://runs/a") == 0
    s3.clear()
    return output


def test_a_run_without_its_folder_goes_on_from_the_store(
    finished: Path, data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = remote_steps("s3://runs/a")
    assert copied[-1] == 4 and len(copied) <= 2, "train.keep_last"
    local = finished / "checkpoints" / "step-0000004"
    assert Store("s3://runs/a/step-0000004").sizes() == {path.name: path.stat().st_size for path in local.iterdir()}
    more = [data, "train.checkpoint_store=s3://runs/a", "train.max_steps=5"]
    assert train(tmp_path / "elsewhere", *more, resume=True) == 0
    shutil.copytree(finished, tmp_path / "copied")
    assert train(tmp_path / "copied", data, "train.max_steps=5", resume=True) == 0
    assert numbers(tmp_path / "elsewhere", 5) == numbers(tmp_path / "copied", 5)
    assert "resumed from" in capfd.readouterr().err
    assert train(tmp_path / "new", *more) == 2
    assert "holds checkpoints to step 5: resume, overwrite or give another" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_store_that_fails_costs_no_step(
    s3: servers.Faults, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    s3.unavailable, s3.only = 1.0, "student"
    assert train(tmp_path / "run", data, "train.checkpoint_store=s3://runs/b") == 0
    said = capfd.readouterr().err
    assert (
        "was not copied to s3://runs/b: s3://runs/b/step-" in said and "student.safetensors cannot be written (2 attempts" in said
    )
    assert "the run continues" in said and servers.SECRET not in said
    s3.clear()
    assert remote_steps("s3://runs/b") == [] and len(numbers(tmp_path / "run")) == 4


def upload_until_killed(root: Path) -> None:
    uploads = Uploads(root, TrainConfig(checkpoint_store="s3://runs/c"))
    uploads.add(4)
    uploads.wait()


def test_an_upload_that_is_killed_leaves_no_checkpoint_and_the_next_one_cleans_up(
    finished: Path, s3: servers.Faults, tmp_path: Path
) -> None:
    root = finished / "checkpoints"
    s3.latency = 0.05
    process = multiprocessing.get_context("spawn").Process(target=upload_until_killed, args=(root,))
    process.start()
    while not any(name == "PUT" and "/c/" in path for name, path, _ in s3.requests):
        time.sleep(0.005)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    s3.clear()
    assert remote_steps("s3://runs/c") == [] and find_checkpoint(tmp_path, "auto", store="s3://runs/c") is None
    Store("s3://runs/c/step-0000007").put_bytes("complete.json", b"of a branch that was left")
    uploads = Uploads(root, TrainConfig(checkpoint_store="s3://runs/c", keep_last=1))
    for step in (3, 4):
        uploads.add(step)
        uploads.wait()
        assert remote_steps("s3://runs/c") == [step]
    assert uploads.news() == [f"copied the checkpoint of step {step} to s3://runs/c" for step in (3, 4)] and not uploads.busy
    assert Store("s3://runs/c").folders() == ["step-0000004"]


def test_a_damaged_copy_is_left_out_and_a_store_that_is_away_is_an_error(
    finished: Path, s3: servers.Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = Uploads(finished / "checkpoints", TrainConfig(checkpoint_store="s3://runs/d"))
    for step in (3, 4):
        uploads.add(step)
        uploads.wait()
    copy = Store("s3://runs/d/step-0000004")
    copy.put_bytes("state.json", copy.read("state.json")[:-1] + b" ")
    said: list[str] = []
    found = find_checkpoint(tmp_path, "auto", said.append, "s3://runs/d")
    assert found == tmp_path / "checkpoints" / "step-0000003" and "step-0000004 is damaged (state.json" in " ".join(said)
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    s3.unavailable = 1.0
    with pytest.raises(DataError, match="s3://runs/d cannot be listed"):
        find_checkpoint(tmp_path / "other", "auto", said.append, "s3://runs/d")
