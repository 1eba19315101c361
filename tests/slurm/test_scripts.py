"""Slurm accepts the shipped scripts, from plain sbatch and `albef-ds submit`, and they stop when they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.common import exit_codes
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import ROOT, Submitter

pytestmark = pytest.mark.timeout(900)  # jobs start, die and start again, perhaps on a machine with other work
SCRIPTS = sorted(path.name for path in (ROOT / "slurm").glob("*.sbatch"))


def test_every_script_is_known_to_these_tests() -> None:
    assert [f"{name}.sbatch" for name in ("data", "evaluate", "finetune", "preflight", "pretrain")] == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_slurm_would_take_the_script(slurm_cluster: SlurmCluster, script: str) -> None:
    done = slurm_cluster.call("sbatch", "--test-only", str(ROOT / "slurm" / script), ALBEF_ROOT=str(ROOT))
    assert done.returncode == 0 and "to start at" in done.stderr, done.stderr
    refused = slurm_cluster.call(
        "sbatch", "--test-only", "--partition=nowhere", str(ROOT / "slurm" / script), ALBEF_ROOT=str(ROOT)
    )
    assert refused.returncode != 0


def albef_ds(cluster: SlurmCluster, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "albef_ds.cli.main", *arguments]
    site = folder / "site.env"
    site.write_text(f"ALBEF_PARTITION=high\nALBEF_PYTHON={sys.executable}\nALBEF_LOGS='{folder}/logs'\nALBEF_INTERFACE=lo\n")
    return cluster.call(*command, "--site", str(site), cwd=folder, PYTHONPATH=str(ROOT), **variables)


def test_submit_shows_the_plan_asks_slurm_and_submits_nothing_on_a_dry_run(
    slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ["--nodes", "2", "--gpus-per-node", "8", "--recipe", "pretrain_4m", "data.shards=corpus", f"output={tmp_path}/run"]
    before = slurm_cluster.run("squeue", "-h")
    done = albef_ds(slurm_cluster, tmp_path, "submit", "--dry-run", "--time", "30", *run, "train.micro_batch_size=32")
    assert done.returncode == 0, done.stderr
    assert "nodes: 2 x 8 = 16 ranks" in done.stdout
    assert "global batch: 512 = 16 ranks x 32 x 1 accumulation steps" in done.stdout
    assert "GB planned" in done.stdout and "to start at" in done.stdout
    assert "--partition=high --nodes=2 --gpus-per-node=8 --time=30" in done.stdout
    assert slurm_cluster.run("squeue", "-h") == before
    for change, words in [
        (["train.micro_batch_size=100"], "train.global_batch_size"),
        (["train.micro_batch_size=32", "--memory", "1"], "GB per GPU, more than its 1: `albef-ds plan`"),
        (["--sbatch=--partition=nowhere"], "Slurm would refuse"),
        (["--recipee=x"], "recipee"),
    ]:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name in ("PATH", "SLURM_CONF"):
                patch.setenv(name, slurm_cluster.environment[name])
            code = main(["submit", "--dry-run", *run, *change, "--site", str(tmp_path / "site.env")])
        said = capfd.readouterr().err
        assert code == 2 and words in said and said.count("\n") == 1, (change, said)


def test_submit_follows_an_evaluation_to_its_end(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    place = ["--job", "evaluate", "--nodes", "1", "--gpus-per-node", "1", "--time", "30"]
    done = albef_ds(slurm_cluster, tmp_path, "submit", *place, "--follow", str(tmp_path / "no-such-run"), DS_ACCELERATOR="cpu")
    assert done.returncode == 1, done.stderr
    assert "slurm: job" in done.stdout and "FAILED" in done.stdout
    # From the batch script's log and from the node's.
    assert "restart 0, on 127.0.0.1" in done.stdout and "no-such-run" in done.stdout
    assert "slurm: stop:" in done.stdout and "requeue" not in done.stdout


def test_a_users_mistake_ends_the_job_at_once_with_its_line(submitter: Submitter) -> None:
    job = submitter.pretrain("--nodes=1", "--gpus-per-node=1", arguments=("train.micro_batch=1",))
    assert job.wait() == "FAILED"
    fields = job.cluster.job(job.number)
    assert fields["ExitCode"] == "2:0" and fields["Restarts"] == "0"
    assert "albef-ds: error: there is no setting train.micro_batch" in job.log


def test_a_crash_loop_stops_itself_with_the_reason(submitter: Submitter) -> None:
    job = submitter.pretrain("--nodes=1", "--gpus-per-node=1", "--hold")
    crash = [{"event": "begin", "restart": 0, "nodes": "n", "step": 4}]
    crash.append({"event": "end", "outcome": "crashed", "reason": "rank 1: RuntimeError: boom", "end_step": 4})
    (job.folder / "logs").mkdir()
    history = job.folder / "logs" / f"albef-pretrain-{job.number}.attempts.jsonl"
    history.write_text("".join(json.dumps(event) + "\n" for event in crash * 3))
    job.cluster.run("scontrol", "release", job.number)
    assert job.wait() == "FAILED"
    assert "crash loop: 3 attempts in a row ended at step 4, last by: rank 1: RuntimeError: boom" in job.log
    assert not job.run.exists()


def shell(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `script` after slurm/lib.sh, with what a job of one node would have."""
    job = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NAME": "x", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    environment = {"PATH": os.environ["PATH"], "ALBEF_ROOT": str(ROOT), **job, **variables}
    text = f". {ROOT}/slurm/lib.sh\n{script}"
    return subprocess.run(
        ["bash", "-c", text], env=environment, cwd=variables["SLURM_SUBMIT_DIR"], capture_output=True, text=True
    )


def test_exit_codes_are_those_of_the_package(tmp_path: Path) -> None:
    shown = shell("echo $REQUEUE $BAD_NODE", SLURM_SUBMIT_DIR=str(tmp_path)).stdout.split()
    assert shown == [str(exit_codes.REQUEUE), str(exit_codes.BAD_NODE)]


def test_containers_wrap_the_same_command(tmp_path: Path) -> None:
    show = 'load_site; printf "%s " "${TASKS[@]}" "${ENTER[@]}" "$PYTHON"'
    image = {"ALBEF_IMAGE": "/images/albef.sqsh", "ALBEF_MOUNTS": "/data:/data", "SLURM_SUBMIT_DIR": str(tmp_path)}
    mounts = f"{ROOT}:{ROOT},{tmp_path}:{tmp_path},/data:/data"
    pyxis = shell(show, ALBEF_CONTAINER="pyxis", **image).stdout
    assert pyxis.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --container-image=/images/albef.sqsh")
    assert f"--container-mounts={mounts} " in pyxis and pyxis.endswith(" python3 ")
    apptainer = shell(show, ALBEF_CONTAINER="apptainer", **image).stdout
    assert f"apptainer exec --nv --bind {mounts} --pwd {tmp_path} /images/albef.sqsh python3" in apptainer
    for variables, words in [
        ({"ALBEF_CONTAINER": "docker"}, "give none, pyxis or apptainer"),
        ({"ALBEF_CONTAINER": "pyxis"}, "needs ALBEF_IMAGE"),
        ({"ALBEF_SITE": "/nowhere/site.env"}, "does not exist"),
        ({"ALBEF_PYTHON": "/nowhere/python"}, "set ALBEF_PYTHON"),
        ({"ALBEF_ROOT": str(tmp_path)}, "is not the folder of albef_ds"),
    ]:
        done = shell(show, SLURM_SUBMIT_DIR=str(tmp_path), **variables)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, (variables, done.stderr)


def test_without_a_name_for_the_first_node_the_job_fails_loudly(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho no-such-host.invalid\n")
    scontrol.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = shell("find_head_node", SLURM_SUBMIT_DIR=str(tmp_path), PATH=path)
    assert done.returncode == 2 and "no-such-host.invalid does not resolve" in done.stderr
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    done = shell("find_head_node", SLURM_SUBMIT_DIR=str(tmp_path), PATH=path)
    assert done.returncode == 2 and "there is no MASTER_ADDR" in done.stderr
    scontrol.write_text("#!/bin/sh\necho localhost\n")
    ports = [
        shell("find_head_node; echo $MASTER_PORT", SLURM_SUBMIT_DIR=str(tmp_path), PATH=path, SLURM_JOB_ID=job).stdout
        for job in ("123456", "123457")
    ]
    assert ports == ["16912\n", "16914\n"]
