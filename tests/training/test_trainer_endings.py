"""Tests starts and ends of runs in a folder: refused, overwritten, stopped by a time limit, gone back to a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.training.stop import parse_duration
from tests.data.conftest import numbered_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_corpus(tmp_path_factory.mktemp("data") / "corpus", 20, 20)


def train(corpus: Path, output: Path, *more: str) -> int:
    settings = ["train.max_steps=6", "train.save_every=2", "train.dry_run_batch=false"]
    return main(["train", "--recipe", "debug", f"data.shards={corpus}", *settings, *more, "--output", str(output)])


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def losses(output: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in map(json.loads, (output / "metrics.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "finished"
    assert train(corpus, output, "train.keep_last=2") == 0
    return output


def test_only_as_many_checkpoints_stay_as_asked_for(finished: Path) -> None:
    assert names(finished) == ["step-0000004", "step-0000006"]


def test_a_new_run_into_a_used_folder_is_refused_or_overwrites(
    corpus: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "run"))
    assert train(corpus, output, "train.max_steps=1") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "holds a run already" in error and "--resume auto" in error and "--overwrite" in error
    assert losses(output) == losses(finished) and names(output) == names(finished)
    assert train(corpus, output, "train.max_steps=1", "--overwrite") == 0
    assert [step for step, _ in losses(output)] == [1] and names(output) == ["step-0000001"]


def test_another_runs_checkpoint_does_not_mix_into_a_used_folder(
    corpus: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "run"))
    other = finished / "checkpoints" / "step-0000004"
    assert train(corpus, output, "--resume", str(other)) == 2
    assert "holds a run already" in capfd.readouterr().err


def test_going_back_to_an_older_checkpoint_puts_the_later_ones_aside(corpus: Path, finished: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "run"))
    assert train(corpus, output, "train.max_steps=5", "--resume", str(output / "checkpoints" / "step-0000004")) == 0
    assert names(output) == ["abandoned-step-0000006", "step-0000004", "step-0000005"]
    assert losses(output)[-1] == losses(finished)[4]
    aside = output / "checkpoints" / "abandoned-step-0000006"
    assert train(corpus, output, "train.max_steps=7", "--resume", str(aside)) == 0
    assert losses(output)[-1][0] == 7 and "step-0000007" in names(output)


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(
    corpus: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "run"))
    with open(output / "checkpoints" / "step-0000006" / "exp_avg.safetensors", "rb+") as file:
        file.seek(-5, 2)
        file.write(b"?")
    assert train(corpus, output, "--resume", "auto") == 0
    said = capfd.readouterr().err
    assert "step-0000006 is damaged (exp_avg.safetensors has another checksum" in said and "at step 4" in said
    assert losses(output)[-2:] == losses(finished)[-2:]
    assert names(output) == names(finished)


def test_saving_in_the_foreground_writes_the_same_bytes(corpus: Path, finished: Path, tmp_path: Path) -> None:
    assert train(corpus, tmp_path / "run", "train.save_in_background=false") == 0
    for path in (finished / "checkpoints" / "step-0000006").glob("*.safetensors"):
        assert (tmp_path / "run" / "checkpoints" / "step-0000006" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_clock_stops_a_run_with_a_checkpoint_and_a_code_of_its_own(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train.max_steps=1000000", "train.epochs=1e9", "train.save_every=0"]
    assert train(corpus, tmp_path / "run", *arguments, "--stop-after", "2s") == 75
    said = capfd.readouterr().err
    assert "stopped by the time limit; resume the run to continue" in said
    last = losses(tmp_path / "run")[-1][0] if (tmp_path / "run" / "metrics.jsonl").stat().st_size else 0
    assert names(tmp_path / "run") == [f"step-{last:07d}"]


def test_numbers_between_two_log_lines_survive_a_resume(corpus: Path, tmp_path: Path) -> None:
    """Step 4 is saved and logged with steps 5 and 6 as their mean."""
    assert train(corpus, tmp_path / "straight", "train.log_every=3") == 0
    resumed = Path(shutil.copytree(tmp_path / "straight", tmp_path / "resumed"))
    shutil.rmtree(resumed / "checkpoints" / "step-0000006")
    assert train(corpus, resumed, "train.log_every=3", "--resume", "auto") == 0
    assert losses(resumed) == [*losses(tmp_path / "straight"), losses(tmp_path / "straight")[-1]]


@pytest.mark.parametrize(("text", "seconds"), [("3h50m", 13800.0), ("90s", 90.0), ("1d", 86400.0), ("1.5h", 5400.0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3h 50m", "-3h", "3x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it like 3h50m"):
        parse_duration(text)


def test_overwriting_what_is_to_be_resumed_is_a_mistake(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(corpus, tmp_path / "run", "--overwrite", "--resume", "auto") == 2
    assert "give one of them" in capfd.readouterr().err
