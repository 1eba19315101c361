"""Whole runs over an object store and over mixtures: their losses, their logs, and what their folders hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.data.store import objects
from tests import servers
from tests.data.conftest import numbered_corpus
from tests.training.test_trainer import numbers

LENGTHS = ["train.max_steps=4", "train.save_every=2", "train.log_every=1", "data.num_workers=0"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return numbered_corpus(folder / "one", 40, 10), numbered_corpus(folder / "other", 24, 10)


def train(output: Path, *settings: str, resume: bool = False) -> None:
    more = ["--resume", "auto"] if resume else []
    assert main(["train", "--recipe", "debug", *LENGTHS, *settings, "--output", str(output), *more]) == 0


def test_losses_from_a_failing_store_are_those_of_the_folder_and_no_secret_is_kept(
    corpora: tuple[Path, Path],
    s3: servers.Faults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)
    train(tmp_path / "local", f"data.shards={corpora[0]}")
    given = [f"data.shards={servers.upload(corpora[0], 's3://bucket/one')}", f"data.cache={tmp_path / 'cache'}"]
    given.append("data.cache_gb=1e-4")
    s3.unavailable = s3.cut = s3.reset = 0.1
    train(tmp_path / "store", *given, "train.max_steps=2", "train.epochs=1000")
    train(tmp_path / "store", *given, resume=True)
    assert numbers(tmp_path / "store", 3) == numbers(tmp_path / "local", 3)
    assert numbers(tmp_path / "store")[0]["loss"] == numbers(tmp_path / "local")[0]["loss"]
    said = capfd.readouterr()
    assert servers.SECRET not in said.out + said.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or servers.SECRET.encode() not in path.read_bytes(), path


def test_the_share_of_each_corpus_is_logged_and_other_weights_are_said(
    corpora: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, other = corpora
    mixture = "data.mixture=one={},weight={};other={},weight={}"
    train(tmp_path / "run", mixture.format(one, 1, other, 1), "train.max_steps=2", "train.epochs=1000")
    train(tmp_path / "run", mixture.format(one, 1, other, 3), resume=True)
    for record in numbers(tmp_path / "run"):
        assert record["share_one"] + record["share_other"] == pytest.approx(1)
    log = capfd.readouterr().err
    assert "one 50.0%, other 50.0% of the samples" in log
    assert "one 25.0%, other 75.0% of the samples, from sample 16 on" in log
    state = json.loads(next((tmp_path / "run" / "checkpoints").glob("step-*4/state.json")).read_text())
    assert state["mixture"] == [[0, {"one": 500, "other": 500}], [16, {"one": 250, "other": 750}]]
