"""Tests runs as a user starts them: their files, exact resumption, and their endings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.tasks.pretrain import PretrainTask
from data_tools.files.shard_writer import ShardWriter
from tests.data.conftest import numbered_corpus, sample
from tests.faults import harness

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {"time", "images_per_second", "tokens_per_second", "data_wait_share"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs in 4 shards: a run of 8 steps of 8 crosses an epoch's end."""
    return numbered_corpus(tmp_path_factory.mktemp("data") / "corpus", 40, 10)


@pytest.fixture(scope="module")
def straight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 steps in one go, a checkpoint at step 4, evaluations at steps 3, 6 and 8."""
    output = tmp_path_factory.mktemp("run") / "straight"
    lengths = ["train.max_steps=8", "train.save_every=4", "train.eval_every=3", "train.eval_samples=6"]
    command = [sys.executable, "-m", "albef_ds.train", "--recipe", "debug", f"data.shards={corpus}", *lengths]
    done = subprocess.run(
        [*command, f"data.eval_shards={corpus}", "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return output


def records(output: Path, kind: str = "step") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def numbers(output: Path, first_step: int = 1) -> list[dict[str, Any]]:
    """Returns the steps from `first_step` on without measured times."""
    return [
        {name: value for name, value in record.items() if name not in MEASURED}
        for record in records(output)
        if record["step"] >= first_step
    ]


def test_a_run_leaves_its_configuration_its_numbers_and_whole_checkpoints(straight: Path) -> None:
    steps = records(straight)
    assert [record["step"] for record in steps] == list(range(1, 9))
    names = {"loss", "loss_itc", "loss_mlm", "loss_itm", "alpha", "temperature", "learning_rate", "grad_norm"}
    assert names | {"images_per_second", "data_wait_share", "epoch"} <= steps[0].keys()
    assert steps[0]["loss"] == pytest.approx(sum(steps[0][f"loss_{part}"] for part in ("itc", "mlm", "itm")))
    assert steps[0]["alpha"] == 0.0 and steps[-1]["alpha"] == pytest.approx(0.4)
    evaluations = records(straight, "evaluation")
    assert [record["step"] for record in evaluations] == [3, 6, 8]
    assert evaluations[0]["retrieval/num_images"] == 6
    assert list((straight / "tensorboard").glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (straight / "checkpoints").iterdir()) == ["step-0000004", "step-0000008"]
    tensors = {f"{name}.safetensors" for name in ("student", "exp_avg", "exp_avg_sq", "momentum", "queue", "rank-00000")}
    whole = {"complete.json", "state.json", "config.json"} | tensors
    assert {path.name for path in (straight / "checkpoints" / "step-0000008").iterdir()} == whole
    assert json.loads((straight / "config.json").read_text())["train"]["max_steps"] == 8


def test_resume_goes_on_exactly_where_the_checkpoint_stands(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000008")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    # The configuration that the run wrote is enough to go on; evaluations must not leave a trace, so this run has none.
    arguments = ["--config", str(straight / "config.json"), "data.eval_shards=", "train.eval_every=0"]
    assert main(["train", *arguments, "--output", str(tmp_path / "run"), "--resume", "auto"]) == 0
    assert numbers(tmp_path / "run") == numbers(straight, first_step=5)


def stop_at(output: Path, step: int, number: signal.Signals) -> threading.Thread:
    """Send this process `number` once the run in `output` has logged `step`."""

    def watch() -> None:
        log = output / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if log.exists() and f'"step": {step},' in log.read_text():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint_to_go_on_from(
    corpus: Path, tmp_path: Path, number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path)]
    thread = stop_at(tmp_path, 2, number)
    assert main([*arguments, "train.max_steps=1000", "train.epochs=1000"]) == code
    thread.join()
    last = records(tmp_path)[-1]["step"]
    assert last < 1000
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{last:07d}"]
    assert f"stopped by {number.name}" in capfd.readouterr().err
    assert main([*arguments, f"train.max_steps={last + 2}", "train.epochs=1000", "--resume", "auto"]) == 0
    assert [record["step"] for record in records(tmp_path)] == list(range(1, last + 3))


def test_two_ranks_under_zero_2_resume_exactly(corpus: Path, tmp_path: Path) -> None:
    def train(output: Path, resume: str = "auto") -> None:
        engine = ["engine.kind=zero", "engine.stage=2", "engine.momentum_storage=value_residual", "engine.device=cpu"]
        lengths = ["train.micro_batch_size=4", "train.max_steps=4", "train.save_every=2"]
        job = harness.start(output, 2, ["--recipe", "debug", f"data.shards={corpus}", *engine, *lengths], resume=resume)
        assert job.join(300.0) == [0, 0], job.errors()

    train(tmp_path / "straight")
    train(tmp_path / "resumed", str(tmp_path / "straight" / "checkpoints" / "step-0000002"))
    assert [record["step"] for record in records(tmp_path / "resumed")] == [3, 4]
    assert numbers(tmp_path / "resumed") == numbers(tmp_path / "straight", first_step=3)


def test_broken_samples_that_were_replaced_are_counted_in_the_log(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "corpus", samples_per_shard=10) as writer:
        for number in range(20):
            writer.add(*sample(number, **({"image": b"no picture"} if number == 7 else {})))
    arguments = [f"data.shards={tmp_path / 'corpus'}", "data.max_broken=0.2", "train.max_steps=3"]
    assert main(["train", "--recipe", "debug", *arguments, "--output", str(tmp_path / "run")]) == 0
    assert records(tmp_path / "run")[-1]["broken_samples"] >= 1


def test_too_little_memory_is_one_line_before_the_first_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forward(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(PretrainTask, "forward", forward)
    assert main(["train", "--recipe", "debug", f"data.shards={corpus}", "--output", str(tmp_path)]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("albef-ds: error: train.micro_batch_size 8 does not fit into memory") and "lower it" in last


def test_loaders_end_with_the_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[ImageTextStream] = []
    close = ImageTextStream.close
    monkeypatch.setattr(ImageTextStream, "close", lambda self: (closed.append(self), close(self))[1])
    arguments = [f"data.shards={corpus}", "init.text_encoder=", "--output", str(tmp_path)]
    assert main(["train", "--recipe", "debug", *arguments]) == 2
    assert closed
