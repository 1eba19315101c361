"""Every mistake a user can make in `albef-ds train`: exit code 2 and one line that names the thing and the fix."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.cli.main import main
from data_tools.files.shard_writer import ShardWriter
from tests.data.conftest import sample

ROOT = Path(__file__).resolve().parents[2]


def write_corpus(folder: Path, broken: dict[str, Any] | None = None) -> Path:
    """20 pairs in 2 shards; `broken` replaces parts of every second one."""
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for number in range(20):
            writer.add(*sample(number, **(broken or {} if number % 2 else {})))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one step."""
    output = tmp_path_factory.mktemp("finished")
    arguments = [f"data.shards={corpus}", "train.max_steps=1", "train.dry_run_batch=false"]
    assert main(["train", "--recipe", "debug", *arguments, "--output", str(output)]) == 0
    return output


def told(capfd: pytest.CaptureFixture[str], arguments: list[str], *, alone: bool) -> str:
    """The one line that a refused run ends with; `alone`: nothing else was said before."""
    capfd.readouterr()
    assert main(["train", *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("albef-ds: error: ")]
    assert errors == lines[-1:], lines
    assert len(lines) == 1 or not alone, lines
    assert not any("Traceback" in line for line in lines)
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "thing", "fix"),
    [
        (["train.micro_batch_size=1"], "train.micro_batch_size of 1", "use 2 or more"),
        (["model.vision.image_size=40"], "model.vision.image_size 40 is not divisible", "use 32"),
        (["train.max_step=3"], "no setting train.max_step", "train.max_steps"),
        (["data.shards="], "data.shards", "give"),
        (["data.shards=/no/such/folder"], "/no/such/folder", "give"),
        (["engine.kind=zero", "engine.stage=3"], "engine.momentum_storage of dense", "value_residual"),
        (["engine.precision=fp16", "engine.device=cpu"], "engine.precision=fp16", "bf16 or fp32"),
        (["--resume", "/no/such/checkpoint"], "/no/such/checkpoint is not a checkpoint folder", "or auto"),
    ],
)
def test_mistakes_on_the_command_line(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], thing: str, fix: str
) -> None:
    base = ["--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path / "run")]
    line = told(capfd, [*base, *arguments], alone=True)
    assert thing in line and fix in line.split(thing)[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the mistake is to ask for a GPU that is not there")
def test_a_gpu_that_is_not_there(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = ["--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path / "run")]
    assert "use engine.device=cpu" in told(capfd, [*base, "engine.device=cuda"], alone=True)


def test_weights_that_were_not_given(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = ["--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path / "run")]
    line = told(capfd, [*base, "init.visual_encoder="], alone=False)
    assert "init.visual_encoder is not set" in line and "init.visual_encoder=scratch" in line


def _remove(folder: Path) -> None:
    (folder / "00001.tar").unlink()


def _truncate(folder: Path) -> None:
    with open(folder / "00001.tar", "rb+") as file:
        file.truncate(2000)


def _empty(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "shards": [], "num_samples": 0}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, "1 of 2 shards are missing"),
        (_truncate, "00001.tar is truncated"),
        (_empty, "manifest.json lists no samples"),
    ],
)
def test_damaged_corpora(tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str) -> None:
    damage(write_corpus(tmp_path / "corpus"))
    base = ["--recipe", "debug", f"data.shards={tmp_path / 'corpus'}", "--output", str(tmp_path / "run")]
    assert message in told(capfd, base, alone=True)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [({"image": b"no picture"}, "undecodable picture"), ({"captions": ["..."]}, "empty caption")],
)
def test_more_broken_samples_than_allowed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], broken: dict[str, Any], reason: str
) -> None:
    folder = write_corpus(tmp_path / "corpus", broken)
    line = told(capfd, ["--recipe", "debug", f"data.shards={folder}", "--output", str(tmp_path / "run")], alone=False)
    assert reason in line and "data.max_broken" in line and ".tar" in line


def test_an_output_that_is_a_file(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    base = ["--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path / "taken")]
    line = told(capfd, base, alone=True)
    assert str(tmp_path / "taken") in line and "give another folder" in line


def test_several_ranks_for_the_plain_engine(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path / "run")]) == 2
    assert "use engine.kind=zero" in capfd.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["state.json", "momentum.safetensors", "complete.json"])
@pytest.mark.parametrize("content", [b"", b"neither zip nor JSON", None])
def test_damaged_checkpoints(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes | None
) -> None:
    [folder] = (run / "checkpoints").iterdir()
    kept = (folder / name).read_bytes()
    (folder / name).write_bytes(kept[: len(kept) // 2] if content is None else content)
    try:
        line = told(
            capfd,
            ["--config", str(run / "config.json"), "train.max_steps=2", "--output", str(tmp_path), "--resume", str(folder)],
            alone=False,
        )
    finally:
        (folder / name).write_bytes(kept)
    assert f"{folder} is damaged: {name} " in line and "take another checkpoint" in line


@pytest.mark.parametrize("change", ["model.embed_dim=8", "model.vision.depth=3"])
def test_a_checkpoint_of_another_model(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: str) -> None:
    [folder] = (run / "checkpoints").iterdir()
    arguments = ["--config", str(run / "config.json"), "train.max_steps=2", change, "--output", str(tmp_path)]
    line = told(capfd, [*arguments, "--resume", str(folder)], alone=False)
    assert "does not fit this run" in line and str(folder / "config.json") in line


def test_a_process_of_its_own_says_the_same() -> None:
    command = [sys.executable, "-m", "albef_ds.train", "--recipe", "debug", "data.shards=/no/such/folder"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "/no/such/folder" in done.stderr
