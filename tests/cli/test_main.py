"""`albef-ds` as a process: output, exit codes, and its start by launchers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from albef_ds.cli.main import COMMANDS, guarded
from albef_ds.config.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
AS_COMMAND = ("-m", "albef_ds.cli.main")
AS_MODULE = ("-m", "albef_ds.train")
AS_SCRIPT = (str(ROOT / "albef_ds" / "train.py"),)


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_lists_every_command_and_loads_neither_torch_nor_argparse() -> None:
    result = run("-X", "importtime", *AS_COMMAND, "--help")
    assert result.returncode == 0
    assert all(name in result.stdout and text in result.stdout for name, (_, text) in COMMANDS.items())
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "albef_ds.common.errors" in loaded
    assert loaded.isdisjoint({"torch", "deepspeed", "numpy", "argparse"})


def test_a_mistake_is_found_before_torch_is_loaded() -> None:
    result = run("-X", "importtime", *AS_COMMAND, "train", "--recipe", "debug", "train.seed=x")
    assert result.returncode == 2
    assert "torch" not in {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "did you mean train?"]),
        (["train"], ["--recipe", "--config", "required"]),
        (["train", "--recipe", "debgu"], ["debgu", "did you mean debug?"]),
        (["train", "--recipe", "debug", "--config", "x"], ["not allowed"]),
        (["train", "--recipe", "debug", "--recpie"], ["--recpie"]),
        (["train", "--config", "nowhere.json"], ["nowhere.json does not exist"]),
        (["train", "--recipe", "pretrain_4m", "engine.ds_config=nowhere.json"], ["nowhere.json does not exist"]),
        (["train", "--recipe", "pretrain_4m", "engine.ds_config=ds_configs/zero3.json"], ["engine.stage=3"]),
        (["config", "data.flip=maybe"], ["data.flip=maybe"]),
        (["recipes", "pretrain_4x"], ["did you mean pretrain_4m?"]),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], words: list[str]) -> None:
    result = run(*AS_COMMAND, *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("albef-ds: error: ")
    for word in words:
        assert word in line


def test_a_rank_says_which_it_is() -> None:
    result = run(*AS_COMMAND, "trian", RANK="3", WORLD_SIZE="4")
    assert result.stderr.startswith("albef-ds [rank 3]: error: ")


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    def broken() -> int:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError):
        guarded(broken)


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    program = (
        # A test run in the background of a shell inherits an ignored SIGINT.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from albef_ds.cli.main import guarded\n"
        "sys.exit(guarded(lambda: print('up', flush=True) or time.sleep(60)))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted" in errors


def test_a_reader_that_leaves_early_is_no_error() -> None:
    result = subprocess.run(
        ["bash", "-c", '"$0" -m albef_ds.cli.main config | true; echo "${PIPESTATUS[0]}"', sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stderr == ""
    assert result.stdout.strip() in ("0", "141")


@pytest.mark.parametrize("start", [AS_MODULE, AS_SCRIPT], ids=["module", "script"])
def test_every_way_to_start_training_reaches_the_same_command(start: tuple[str, ...], tmp_path: Path) -> None:
    # As a script our `logging` and `types` would hide the standard library's; --help alone imports enough to notice.
    environment = {"PYTHONPATH": "" if start == AS_SCRIPT else str(ROOT)}
    shown = run(*start, "--help", cwd=tmp_path, **environment)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--resume" in shown.stdout and "--local_rank" not in shown.stdout
    arguments = ("--local_rank=1", "--recipe", "debug", "--output", "x", "train.max_steps=ten")
    refused = run(*start, *arguments, cwd=tmp_path, **environment)
    assert refused.returncode == 2
    assert refused.stderr == "albef-ds: error: train.max_steps=ten cannot be used: give a value of type int\n"


def test_the_script_leaves_the_standard_librarys_names_alone(tmp_path: Path) -> None:
    program = (
        f"import runpy, sys\nsys.path.insert(0, {str(ROOT / 'albef_ds')!r})\n"
        f"runpy.run_path({AS_SCRIPT[0]!r})\n"
        "import logging, queue, types\nprint(logging.INFO, queue.Queue.__name__, types.SimpleNamespace.__name__)"
    )
    result = run("-c", program, cwd=tmp_path, PYTHONPATH="")
    assert (result.stdout, result.stderr) == ("20 Queue SimpleNamespace\n", "")


def test_overrides_may_stand_between_options_and_the_flags_win() -> None:
    result = run(*AS_COMMAND, "config", "train.seed=1", "--recipe", "debug", "output=a", "--json", "train.seed=2")
    values = json.loads(result.stdout)
    assert (values["train"]["seed"], values["output"], values["recipe"]) == (2, "a", "debug")


def test_the_json_that_config_prints_is_a_configuration_file(tmp_path: Path) -> None:
    first = run(*AS_COMMAND, "config", "--recipe", "pretrain_huge", "optim.learning_rate=3e-5", "--json").stdout
    (tmp_path / "c.json").write_text(first, encoding="utf-8")
    assert run(*AS_COMMAND, "config", "--config", str(tmp_path / "c.json"), "--json").stdout == first


def test_recipes_lists_each_on_one_line_and_prints_one_in_full() -> None:
    lines = run(*AS_COMMAND, "recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert "--recipe pretrain_4m" in run(*AS_COMMAND, "recipes", "pretrain_4m").stdout
