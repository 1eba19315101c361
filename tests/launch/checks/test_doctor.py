"""Tests the doctor's findings and their advice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from albef_ds.cli.main import main
from albef_ds.common.exit_codes import CHECK_FAILED
from albef_ds.engine.zero.setup import LAUNCH_VARIABLES
from albef_ds.launch.checks.doctor import machine, software
from albef_ds.launch.checks.doctor.finding import Finding, findings

ROOT = Path(__file__).resolve().parents[3]


def test_this_machine_is_looked_at_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "albef_ds.cli.main", "doctor", "--json", "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert done.returncode == (CHECK_FAILED if any(entry["state"] == "mend" for entry in found.values()) else 0)
    assert found["torch"]["state"] in ("ok", "note") and found["deepspeed"]["found"]
    assert {"python", "processor", "interfaces", "LayerNorm", "AdamW", "Triton", "apex", "DeepSpeed operators"} <= set(found)
    assert {"disk speed", "shared memory", "cache", "Slurm"} <= set(found)
    [reduced] = [entry for name, entry in found.items() if name.startswith("all-reduce")]
    assert reduced["state"] == "ok", reduced
    assert all(entry["advice"] for entry in found.values() if entry["state"] != "ok")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "tested", "state", "advice"),
    [
        (None, "2.14.1", "mend", "pip install 'torch>=2.6'"),
        ("2.5.1", "2.14.1", "mend", "pip install --upgrade 'torch>=2.6'"),
        ("2.14.1+cu126", "2.14.1", "ok", ""),
        ("2.15.0", "2.14.1", "note", "pip install torch==2.14.1"),
        ("2.15.0", None, "ok", ""),
    ],
)
def test_versions_are_held_against_the_declared_and_the_tested(
    version: str | None, tested: str | None, state: str, advice: str
) -> None:
    found = software.check_version(Requirement("torch>=2.6"), version, tested)
    assert found.state == state and advice in found.advice


def test_the_tested_set_is_read_as_the_file_has_it(tmp_path: Path) -> None:
    tested = software.tested_set(ROOT / "constraints.txt")
    assert tested["torch"] and tested["jinja2"] and "" not in tested
    assert software.tested_set(tmp_path / "none.txt") == {}


def test_a_mend_sets_the_exit_code_and_a_broken_check_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("first", "ok", "fine")
        raise OSError("the driver is gone")

    def fine() -> Iterator[Finding]:
        yield Finding("last", "note", "slow", "get a faster one")

    found = list(findings({"first part": broken, "last part": fine}))
    assert [finding.state for finding in found] == ["ok", "mend", "note"]
    assert "OSError" in found[1].found and "driver" in found[1].advice
    for name in ("versions", "kernels", "compiled"):
        monkeypatch.setattr(software, name, fine)
    for name in ("devices", "network", "slurm"):
        monkeypatch.setattr(machine, name, broken)
    monkeypatch.setattr(machine, "disk", lambda folder: fine())
    assert main(["doctor"]) == CHECK_FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note  last: slow: get a faster one" and lines[-1] == "3 of 10 must be fixed"


def test_settings_that_cannot_work_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "nosuchnet0")
    for variable in LAUNCH_VARIABLES:  # an engine of another test may have completed them in this process
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(machine, "_all_reduce", lambda: Finding("all-reduce", "ok", ""))
    found = {finding.name: finding for finding in machine.network()}
    assert found["NCCL_SOCKET_IFNAME"].state == "mend" and "nosuchnet0" in found["NCCL_SOCKET_IFNAME"].found
    assert found["launch variables"].state == "mend" and "unset RANK" in found["launch variables"].advice


def test_a_slow_disk_and_little_room_are_said_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "disk_speed", lambda folder: (10.0, 20.0))
    monkeypatch.setattr(machine, "MIN_SHARED_GB", 1e9)
    found = {finding.name: finding for finding in machine.disk(tmp_path)}
    assert found["disk speed"].state == "note" and "350 s" in found["disk speed"].advice
    assert found["shared memory"].state == "mend" and "--shm-size" in found["shared memory"].advice


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--folder", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
