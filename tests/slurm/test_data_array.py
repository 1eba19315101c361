"""albef-data as a chain of Slurm jobs: the same bytes as in one process, whatever becomes of a task."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from data_tools.cli import main as albef_data
from tests.data_tools.sample_images import folder_corpus, jpeg
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import ROOT, Job

pytestmark = pytest.mark.timeout(900)  # jobs start, die and start again, perhaps on a machine with other work
OPTIONS = ["--samples-per-shard", "5", "--chunk-rows", "4"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_array_with_a_killed_task_writes_the_bytes_of_the_local_run(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    raw = folder_corpus(tmp_path / "raw", {f"{i:02d}.jpg": (jpeg(i % 25), [f"picture {i}"]) for i in range(30)})
    source = ["--source", f"raw=folder:{raw}"]
    (tmp_path / "site.env").write_text(f"ALBEF_PYTHON={sys.executable}\nALBEF_LOGS={tmp_path}/logs\n")
    arguments = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), *source, *OPTIONS]
    command = [sys.executable, "-m", "albef_ds.cli.main", "submit", "--job", "data", "--tasks", "4", "--time", "60"]
    site = ["--site", str(tmp_path / "site.env")]
    done = slurm_cluster.call(*command, *site, *arguments, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    jobs = {line.split(": ")[1]: line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("job ")}
    assert list(jobs) == ["catalog", "scan", "filter", "dedup", "decontaminate", "plan", "report", "shard", "verify"]

    killed: list[int] = []

    def kill_a_scan() -> bool:
        for process, variables in slurm_cluster.processes().items():
            words = slurm_cluster.command_line(process).split()
            if variables.get("SLURM_ARRAY_TASK_ID") == "2" and words[1:4] == ["-m", "data_tools.cli", "scan"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
        return bool(killed)

    slurm_cluster.wait(kill_a_scan, "task 2 of the scan")
    last = Job(slurm_cluster, tmp_path, jobs["verify"])
    last.finish()
    task = next(
        line for line in slurm_cluster.run("scontrol", "-o", "show", "job", jobs["scan"]).splitlines() if "ArrayTaskId=2 " in line
    )
    assert "Restarts=1" in task and "requeue: exit code 137" in last.log
    assert (
        albef_data(
            ["build", "--work", str(tmp_path / "w"), "--out", str(tmp_path / "local"), *source, *OPTIONS, "--workers", "1"]
        )
        == 0
    )
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
