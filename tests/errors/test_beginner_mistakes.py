"""Mistakes of someone who is new here: each meets one line that says what to do, exit code 2, and nothing is written.

Those of `albef-ds train` alone are in test_train_errors.py, those of the data tools in tests/data_tools/test_chain.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from tests.data.conftest import numbered_corpus
from tests.inference.tiny_models import model_folder, picture

ROOT = Path(__file__).resolve().parents[2]
DEBUG = ["train", "--recipe", "debug", "--output", "run"]
LOCAL = ["engine.kind=local", "engine.momentum_storage=dense"]
CORPUS = "data.shards=corpus"
SEARCH = ["search", "--images", "photos", "--text", "a cup"]

MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    # what went wrong: (command line, words of the one line: the thing, then the fix)
    "an option before the command": (["--recipe", "debug"], ["--recipe is before the command", "albef-ds train --recipe"]),
    "a command that does not exist": (["finetune"], ["no command finetune", "choose one of"]),
    "a recipe without --recipe": (["train", "debug", CORPUS], ["--recipe", "add --recipe debug"]),
    "spaces around =": ([*DEBUG, "data.shards", "=", "corpus"], ["`data.shards` is not a setting", "data.shards=VALUE without"]),
    "a setting with dashes": ([*DEBUG, "--train.max_steps=3"], ["--train.max_steps=3", "without dashes, write train.max_steps="]),
    "another program's option": ([*DEBUG, "--learning-rate", "1e-4"], ["--learning-rate", "write optim.learning_rate="]),
    "a misspelled option": ([*DEBUG, CORPUS, "--outptu", "x"], ["--outptu", "did you mean --output?"]),
    "a comma in a number": ([*DEBUG, CORPUS, "train.global_batch_size=1,024"], ["train.global_batch_size=1,024", "type int"]),
    "a batch that does not divide": ([*DEBUG, CORPUS, "train.global_batch_size=12"], ["12 is not a multiple", "must be"]),
    "a corpus under ~": (
        [*DEBUG, "data.shards=~/albef/no-such-corpus"],
        [f"{Path.home()}/albef/no-such-corpus", "give a folder"],
    ),
    "a folder of pictures as corpus": ([*DEBUG, "data.shards=photos"], ["photos holds no shards", "albef-data build"]),
    "tars without a manifest": ([*DEBUG, "data.shards=tars"], ["tars without manifest.json", "tars/{00000..00001}.tar"]),
    "the manifest in place of its folder": ([*DEBUG, "data.shards=corpus/manifest.json"], ["is a file", "give its folder"]),
    "a validation corpus that is not there": ([*DEBUG, CORPUS, "data.eval_shards=val"], ["val/manifest.json does not", "give"]),
    "fine-tuning without annotations": (["train", "--recipe", "vqa", *LOCAL], ["data.annotations is empty", "name them"]),
    "the folder of a run as --config": (["train", "--config", "notes"], ["notes is a folder", "notes/config.json"]),
    "a comma too many in JSON": (["train", "--config", "comma.json"], ["comma.json line 1 is not JSON", "fix that line"]),
    "an optimizer of the other engine": (["config", "optim.name=adam"], ["optim.name=adam", "one of auto, torch"]),
    "a duration in words": ([*DEBUG, CORPUS, "--stop-after", "3 hours"], ["3 hours is not a duration", "write it like 3h50m"]),
    "a model that was never trained": (["evaluate", "notes"], ["notes holds no model", "give a model folder, a run"]),
    "nothing to score": (["evaluate", "models/pretrain"], ["nothing to score", "set data.test_annotations"]),
    "a web page in place of weights": (["convert", "page.pth", "x", "--to", "folder"], ["it is a web page", "fetch it again"]),
    "a pointer in place of weights": (["inspect", "pointer.pth"], ["pointer of Git LFS", "git lfs pull"]),
    "a download that broke off": (["inspect", "empty.safetensors"], ["it is empty", "fetch"]),
    "pictures that are not there": (
        [*SEARCH, "--model", "models/pretrain", "--images", "notes"],
        ["no readable image", ".jpg"],
    ),
    "a model of another task": ([*SEARCH, "--model", "models/vqa"], ["a model of kind pretrain or retrieval", "load another"]),
    "no picture asked for": ([*SEARCH, "--model", "models/pretrain", "--top", "0"], ["--top: 0", "a whole number from 1 on"]),
    "a folder as the page": (
        [*SEARCH, "--model", "models/pretrain", "--output", "notes"],
        ["notes is a folder", "give"],
    ),
    "a text as picture": (
        ["ask", "--model", "models/vqa", "--image", "notes/todo.txt", "--question", "what is on the table"],
        ["todo.txt is not a usable image", "give a JPEG"],
    ),
    "a box with its corners changed": (
        ["ground", "--model", "models/pretrain", "--image", "photos/a.png", "--text", "cup", "--box", "30,20,5,5"],
        ["a box covers no pixel of the 40 x 30 image", "give left, top, right, bottom"],
    ),
    "scenes into a folder of other things": (["scenes", "notes", "--scale", "0.001"], ["notes holds other files", "new folder"]),
    "a curve of no run": (["compare-curve", "notes"], ["not the log of a run", "give the folder of a run"]),
    "ranks that do not divide the batch": (["demo", "--ranks", "3"], ["x 3 ranks", "use 96"]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has lying about: a corpus, pictures, models, notes, and downloads that went wrong."""
    folder = tmp_path_factory.mktemp("place")
    numbered_corpus(folder / "corpus", 20, 10)
    (folder / "tars").mkdir()
    for name in ("00000.tar", "00001.tar"):
        shutil.copy(folder / "corpus" / name, folder / "tars")
    (folder / "photos").mkdir()
    picture(1).save(folder / "photos" / "a.png")
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("find weights")
    (folder / "models").mkdir()
    for kind in ("pretrain", "vqa"):
        model_folder(folder / "models", kind)
    (folder / "comma.json").write_text('{"train": {"max_steps": 3,}}')
    (folder / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in to download</body></html>")
    (folder / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    (folder / "empty.safetensors").write_bytes(b"")
    return folder


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def check(line: str, words: list[str]) -> None:
    """The words stand in `line` in this order."""
    rest = line
    for word in words:
        assert word in rest, line
        rest = rest.partition(word)[2]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_one_line_that_says_what_to_do(
    name: str, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, words = MISTAKES[name]
    monkeypatch.chdir(place)
    before = everything(place)
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert len(said.err.splitlines()) == 1, said.err
    [line] = said.err.splitlines()
    assert line.startswith("albef-ds: error: ") and ": " in line.removeprefix("albef-ds: error: ")
    check(line, words)
    assert len(line) < 400
    assert everything(place) == before
    assert not (place / "run").exists()


@pytest.mark.parametrize("name", ["a recipe without --recipe", "a web page in place of weights"])
def test_a_process_of_its_own_says_the_same(name: str, place: Path) -> None:
    arguments, words = MISTAKES[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "albef_ds.cli.main", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    check(line, words)


def test_the_mended_command_finds_its_folder_as_new(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    command = ["train", "--recipe", "debug", CORPUS, "train.max_steps=1", "train.dry_run_batch=false"]
    command += ["--output", str(tmp_path / "run")]
    assert main([*command, "init.text_encoder=bert-base-uncased"]) == 2
    assert "bert-base-uncased does not exist: download" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert main(command) == 0
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size


def test_what_else_is_in_the_folder_outlives_the_mistake(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (tmp_path / "notes.txt").write_text("mine")
    arguments = ["train", "--recipe", "debug", CORPUS, "init.text_encoder=bert-base-uncased", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "does not exist" in capfd.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_help_of_a_command_is_shown_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for arguments in (["help", "search"], ["search", "--help"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "usage: albef-ds search" in texts[0]
