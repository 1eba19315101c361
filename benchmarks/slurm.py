"""Time that Slurm and our scripts take around training: start, preflight, requeue, a dead node.

    python -m benchmarks.slurm --out benchmarks/slurm

Runs on the tests' temporary cluster (three nodes on this machine); nothing is trained. The times depend on a cluster's
slurm.conf (here cred_expire 5 s, SlurmdTimeout 10 s); the order of the steps does not.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import record_parser, write_record
from data_tools.files.shard_writer import ShardWriter
from tests.data.conftest import sample
from tests.slurm.cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[1]


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of `action`."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def preflight(cluster: SlurmCluster, folder: Path, shards: str, expected: str) -> None:
    """Runs slurm/preflight.sbatch on all nodes and checks its final state."""
    site = folder / "site.env"
    settings = {"ALBEF_PYTHON": sys.executable, "ALBEF_LOGS": folder / "logs", "ALBEF_INTERFACE": "lo", "ALBEF_MIN_FREE_GB": "0"}
    site.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    run = ["--recipe", "debug", "engine.device=cpu", f"data.shards={shards}", f"output={folder / 'run'}"]
    script = str(ROOT / "slurm" / "preflight.sbatch")
    command = ["sbatch", "--parsable", f"--nodes={len(cluster.nodes)}", "--gpus-per-node=1", script, *run]
    done = cluster.call(*command, cwd=folder, ALBEF_ROOT=str(ROOT), ALBEF_SITE=str(site), DS_ACCELERATOR="cpu")
    state = cluster.wait_for_end(done.stdout.strip())
    if state != expected:
        log = "".join(path.read_text() for path in folder.glob("*.log"))
        raise SystemExit(f"preflight ended as {state}, not {expected}:\n{log}")


def sleeping_job(cluster: SlurmCluster, folder: Path) -> str:
    """Starts a two-node job that sleeps, and requeues itself if its tasks fail, like our scripts; its number when it runs."""
    marks = folder / "running"
    shutil.rmtree(marks, ignore_errors=True)
    marks.mkdir()
    wait = f"srun bash -c 'touch {marks}/$SLURM_PROCID; sleep 3600' || scontrol requeue $SLURM_JOB_ID"
    options = [f"--chdir={folder}", "--nodes=2", "--requeue", "--output=/dev/null", f"--wrap={wait}"]
    job = cluster.run("sbatch", "--parsable", *options)
    cluster.wait(lambda: len(list(marks.iterdir())) == 2, "the job to run")
    return job


def runs_again(cluster: SlurmCluster, job: str) -> None:
    """Waits until the job runs for the second time."""
    cluster.wait(lambda: (cluster.job(job)["Restarts"], cluster.job(job)["JobState"]) == ("1", "RUNNING"), "the second start")


def requeue(cluster: SlurmCluster, folder: Path) -> float:
    """Seconds from `scontrol requeue` to the second start."""
    job = sleeping_job(cluster, folder)
    taken = seconds(lambda: (cluster.run("scontrol", "requeue", job), runs_again(cluster, job)))
    cluster.run("scancel", job)
    cluster.wait_idle()
    return taken


def dead_node(cluster: SlurmCluster, folder: Path) -> float:
    """Seconds from the loss of a node to the second start on the remaining nodes."""
    job = sleeping_job(cluster, folder)
    node = cluster.nodes[1]
    taken = seconds(lambda: (cluster.kill_node(node), runs_again(cluster, job)))
    cluster.run("scancel", job)
    cluster.start_node(node)
    cluster.wait_idle()
    return taken


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        with ShardWriter(folder / "corpus", samples_per_shard=10) as writer:
            for number in range(40):
                writer.add(*sample(number))
        for turn in range(args.repeat):
            cluster = SlurmCluster(folder / f"cluster{turn}")
            for node in (cluster.nodes[0], cluster.nodes[2]):
                shutil.copytree(folder / "corpus", folder / f"shards-{node}", dirs_exist_ok=True)
            measured = {
                "start of the cluster, three nodes": lambda cluster=cluster: seconds(cluster.__enter__),
                "preflight job, one node without the shards: named": lambda cluster=cluster: seconds(
                    lambda: preflight(cluster, folder, f"{folder}/shards-$SLURMD_NODENAME", "FAILED")
                ),
                "preflight job, all fit, with all-reduce": lambda cluster=cluster: seconds(
                    lambda: preflight(cluster, folder, f"{folder}/corpus", "COMPLETED")
                ),
                "scontrol requeue to the second start": lambda cluster=cluster: requeue(cluster, folder),
                "a node killed to the second start without it": lambda cluster=cluster: dead_node(cluster, folder),
                "stop of the cluster": lambda cluster=cluster: seconds(cluster.close),
            }
            for what, measure in measured.items():
                times.setdefault(what, []).append(measure())
    rows: list[dict[str, Any]] = [
        {"what": what, "median, s": f"{statistics.median(found):.1f}", "all, s": ", ".join(f"{each:.1f}" for each in found)}
        for what, found in times.items()
    ]
    notes = [
        f"Slurm {SlurmCluster.version()}. Times of jobs are from submission to end, polled every 0.1 s. The nodes share this",
        "machine's cores, with other work as the load average shows.",
    ]
    facts = {"slurm": SlurmCluster.version(), "repeat": args.repeat}
    write_record(args.out, "Slurm around the training", notes, rows, ["torch"], facts)


if __name__ == "__main__":
    main()
