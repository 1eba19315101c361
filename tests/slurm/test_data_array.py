"""albef-data as a chain of Slurm jobs: the same bytes as in one process, whatever becomes of a task."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
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
    done = slurm_cluster.call(*command, *site, *arguments, "--partitions", "2", cwd=tmp_path, PYTHONPATH=str(ROOT))
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
    for stage in ("dedup", "decontaminate", "plan"):
        assert f"albef-data {stage} --work {tmp_path}/work" in last.log
        assert len(list((tmp_path / "logs").glob(f"*{jobs[stage]}_*.log"))) == 2, "an array of as many tasks as partitions"
    assert (
        albef_data(
            ["build", "--work", str(tmp_path / "w"), "--out", str(tmp_path / "local"), *source, *OPTIONS, "--workers", "1"]
        )
        == 0
    )
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_a_stage_at_its_time_limit_goes_on_in_the_same_job_and_log(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    raw = folder_corpus(tmp_path / "raw", {"0.jpg": (jpeg(1), ["a picture"])})
    (tmp_path / "site.env").write_text(f"ALBEF_PYTHON={sys.executable}\n")
    arguments = ["catalog", "--work", str(tmp_path / "work"), "--source", f"raw=folder:{raw}"]
    variables = {"ALBEF_ROOT": str(ROOT), "ALBEF_SITE": str(tmp_path / "site.env")}
    # A warning five minutes ahead leaves time to give the job its long limit back, however slow the machine is.
    command = ["sbatch", "--parsable", "--time=60", "--signal=B:USR1@300", str(ROOT / "slurm" / "data.sbatch"), *arguments]
    job = Job(slurm_cluster, tmp_path, slurm_cluster.call(*command, cwd=tmp_path, **variables).stdout.strip())
    frozen: list[int] = []

    def freeze() -> bool:
        for process, environment in slurm_cluster.processes().items():
            words = slurm_cluster.command_line(process).split()
            if environment.get("SLURM_JOB_ID") == job.number and words[1:4] == ["-m", "data_tools.cli", "catalog"]:
                os.kill(process, signal.SIGSTOP)
                frozen.append(process)
        return bool(frozen)

    slurm_cluster.wait(freeze, "the stage")
    slurm_cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=4")
    slurm_cluster.wait(lambda: "the time limit is near" in job.log, "the signal before the time limit")
    time.sleep(1)  # long enough for a job that does not wait for its stage to be requeued
    assert slurm_cluster.job(job.number)["JobState"] == "RUNNING"
    slurm_cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    os.kill(frozen[0], signal.SIGCONT)
    job.finish()
    assert "restart 1: albef-data catalog" in job.log and "raw: 1 images listed" in job.log
    assert [path.name for path in tmp_path.glob("*.log")] == [f"albef-data-{job.number}.log"]
