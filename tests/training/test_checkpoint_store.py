"""Checkpoints are copied to an object store in the background, complete or absent, and a run resumes from there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from albef_ds.checkpoint import find, remote
from albef_ds.checkpoint.find import find_checkpoint, problem_of
from albef_ds.checkpoint.remote import Uploads, fetch, remote_steps
from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError, DataError, WeightsError
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


def train(output: Path, *settings: str, resume: bool = False, overwrite: bool = False) -> int:
    more = ["--resume", "auto"] if resume else ["--overwrite"] if overwrite else []
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
    branch = [*more, "--resume", str(finished / "checkpoints" / "step-0000003")]
    assert train(tmp_path / "new", *branch) == 2, "a run from a checkpoint of another one is new"
    assert "holds checkpoints to step 5" in capfd.readouterr().err and remote_steps("s3://runs/a")[-1] == 5
    assert not (tmp_path / "new").exists()


def test_a_store_that_fails_costs_no_step(
    s3: servers.Faults, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    s3.unavailable, s3.only = 1.0, "student"
    Store("s3://runs/b/step-0000009").put_bytes("complete.json", b"of the run that is overwritten")
    assert train(tmp_path / "run", data, "train.checkpoint_store=s3://runs/b", overwrite=True) == 0
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


def nodes(root: Path, url: str, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> list[Uploads]:
    """The uploaders of a run on `count` nodes, here in one process."""
    made = []
    monkeypatch.setattr(remote, "_POLL", 0.01)
    for rank in range(count):
        with monkeypatch.context() as patched:
            patched.setattr(remote.comm, "all_gather_objects", lambda local: ["0", "1"] * count)
            patched.setattr(remote.comm, "rank", lambda rank=rank: 2 * rank)
            made.append(Uploads(root, TrainConfig(checkpoint_store=url, keep_last=1)))
    return made


def test_nodes_share_the_files_and_a_node_may_be_ahead(
    finished: Path, s3: servers.Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = finished / "checkpoints"
    first, second = nodes(root, "s3://runs/nodes", monkeypatch)
    Store("s3://runs/nodes/step-0000009").put_bytes("complete.json", b"of a branch that was left")
    first.add(3)
    second.add(3)
    second.wait()
    second.add(4)
    second.wait()  # before the first node has tidied after step 3
    first.add(4)
    first.wait()
    assert second.news() == [f"copied its share of step {step} to s3://runs/nodes" for step in (3, 4)]
    assert first.news()[-1] == "copied the checkpoint of step 4 to s3://runs/nodes"
    assert remote_steps("s3://runs/nodes") == [4] and Store("s3://runs/nodes").folders() == ["step-0000004"]
    assert not problem_of(fetch("s3://runs/nodes", 4, tmp_path))
    sizes = Store("s3://runs/nodes/step-0000004").sizes()
    assert sizes == {path.name: path.stat().st_size for path in (root / "step-0000004").iterdir()}


def test_a_copy_without_the_files_of_one_node_gets_no_marker(
    finished: Path, s3: servers.Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = finished / "checkpoints"
    first, second = nodes(root, "s3://runs/half", monkeypatch)
    monkeypatch.setattr(remote, "_OTHERS", 0.2)
    second.add(4)
    second.wait()
    copy = Store("s3://runs/half/step-0000004")
    lost = next(name for name in copy.sizes() or {} if not name.startswith("arrived"))
    copy.remove(lost)
    first.add(4)
    first.wait()
    assert "has no files of other nodes" in first.news()[0] and remote_steps("s3://runs/half") == []
    monkeypatch.setattr(remote, "_OTHERS", 3600)
    monkeypatch.setattr(objects, "ATTEMPTS", 2)
    s3.unavailable, s3.only = 1.0, lost
    second.add(3)
    second.wait()
    s3.clear()
    first.add(3)
    first.wait()
    assert f"{lost} cannot be written" in second.news()[-1] and "lacks the files of another node" in first.news()[0]
    assert remote_steps("s3://runs/half") == []
    second.add(3)
    second.wait()
    first.add(3)
    first.wait()
    assert remote_steps("s3://runs/half") == [3]
    first.wait()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://user:geheim@host/run", "put credentials into the environment"),
        ("s3://user:geheim@bucket/run", "put credentials into the environment"),
        ("https://host/run", "give s3://BUCKET/FOLDER, gs:// or az://"),
        ("file:///tmp/run", "give s3://BUCKET/FOLDER, gs:// or az://"),
        ("runs/a", "give s3://BUCKET/FOLDER, gs:// or az://"),
        ("s3://", "give s3://BUCKET/FOLDER, gs:// or az://"),
    ],
)
def test_only_object_stores_are_taken_and_no_credentials_are_shown(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match="checkpoint_store") as raised:
        TrainConfig(checkpoint_store=url)
    assert words in str(raised.value) and "geheim" not in str(raised.value)


def test_a_url_in_the_place_of_a_checkpoint_is_an_error_with_a_way(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", "s3://runs/a/step-0000004"]) == 2
    said = capfd.readouterr().err
    assert "s3://runs/a/step-0000004 is a URL: copy the model" in said and said.count("\n") == 1
    with pytest.raises(WeightsError, match="is a URL: resume with auto and"):
        find_checkpoint(tmp_path, "s3://runs/a/step-0000004")


def test_a_copy_that_takes_too_long_does_not_hold_the_end_of_the_run(
    finished: Path, s3: servers.Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes(finished / "checkpoints", "s3://runs/long", monkeypatch)
    first.add(4)
    first.wait(0.0)
    assert first.news() == ["the copy of step 4 to s3://runs/long is not complete after 0 s: it is left so"]
    second.add(4)
    second.wait()
    first.wait()
    assert remote_steps("s3://runs/long") == [4]


def test_a_run_that_is_asked_to_stop_waits_a_minute_for_its_last_copy(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    monkeypatch.setattr(Uploads, "wait", lambda self, seconds=None: waits.append(seconds))
    given = [
        data,
        "train.checkpoint_store=s3://runs/stopped",
        "train.max_steps=5000",
        "train.save_every=1000",
        "--stop-after",
        "1s",
    ]
    assert train(tmp_path / "run", *given) == 75
    assert waits == [60.0]


def test_a_problem_of_the_first_rank_with_the_store_is_known_to_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(find.comm, "broadcast_object", lambda value: told.append(value) or value)
    with pytest.raises(DataError, match="fsspec knows"):
        find_checkpoint(tmp_path, "auto", store="nothing://bucket/run")
    assert "fsspec knows" in told[-1][1]
