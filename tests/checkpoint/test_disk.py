"""Full, read-only and vanished disks: the save is lost, the run and the checkpoint before are not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.cli.main import main
from albef_ds.common.run_files import CHECKPOINTS_FOLDER
from tests.checkpoint.common import config_for, train
from tests.data.conftest import numbered_corpus
from tests.engine.zero.common import make


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own; a checkpoint of the tiny run takes about half of one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _saver(output: Path) -> tuple[Saver, Callable[[int], str]]:
    config = config_for(-1)
    task, engine = make(config)
    saver = Saver(output, config)
    saver.root.mkdir(parents=True)
    progress = TrainingProgress(config.train)

    def save(step: int) -> str:
        train(config, task, engine, progress, step)
        saver.start(engine, task, progress, [])
        result = saver.finish()
        assert result is not None
        return result.error

    return saver, save


def test_a_full_disk_costs_the_save_and_nothing_else(disk: Path) -> None:
    output = disk / "run"
    saver, save = _saver(output)
    assert save(1) == ""
    (disk / "other").write_bytes(b"0" * (shutil.disk_usage(disk).free - 100_000))
    error = save(2)
    assert "No space left on device" in error and "train.keep_last" in error and str(output) in error
    assert find_checkpoint(output, "auto") == output / CHECKPOINTS_FOLDER / "step-0000001"
    assert [path.name for path in (output / CHECKPOINTS_FOLDER).iterdir()] == ["step-0000001"]  # what was half written is gone
    (disk / "other").unlink()
    assert save(3) == ""
    assert saver.saved_step == 3


def test_a_disk_that_becomes_read_only(disk: Path) -> None:
    output = disk / "run"
    _, save = _saver(output)
    assert save(1) == ""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    error = save(2)
    assert "Read-only file system" in error and "mounted for writing" in error
    assert find_checkpoint(output, "auto") == output / CHECKPOINTS_FOLDER / "step-0000001"


def test_a_folder_that_vanishes_is_not_made_again_somewhere_else(disk: Path) -> None:
    output = disk / "run"
    _, save = _saver(output)
    assert save(1) == ""
    subprocess.run(["umount", "-l", str(disk)], check=True)
    try:
        error = save(2)
        assert "mount it again" in error
        assert not output.exists()
    finally:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)


def test_a_run_on_a_full_disk_trains_to_its_end_and_says_that_its_last_checkpoint_is_missing(
    tmp_path: Path, disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    numbered_corpus(tmp_path / "corpus", 20, 20)
    arguments = [f"data.shards={tmp_path / 'corpus'}", "train.max_steps=4", "train.save_every=2", "train.dry_run_batch=false"]
    assert main(["train", "--recipe", "debug", *arguments, "--output", str(disk / "run")]) == 5
    said = capfd.readouterr().err
    assert "the checkpoint of step 2 was not written" in said and "the run continues" in said
    assert "the last checkpoint is missing" in said
    lines = (disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
