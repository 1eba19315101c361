"""Pretraining on a real Slurm: the same numbers on one node and two, undisturbed and after everything that ends a job early."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import Job, Submitter

TWO_NODES = ("--nodes=2", "--gpus-per-node=1")

pytestmark = pytest.mark.timeout(900)  # jobs start, die and start again, perhaps on a machine with other work


@pytest.fixture(scope="module")
def on_one_node(slurm_cluster: SlurmCluster, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Job]:
    """Two jobs of two ranks that share a node, undisturbed: twelve steps under ZeRO-2 and four under ZeRO-3, by stage."""
    node = slurm_cluster.nodes[0]
    jobs = {}
    for stage, steps in ((2, 12), (3, 4)):
        submitter = Submitter(slurm_cluster, corpus, tmp_path_factory.mktemp(f"one-node-{stage}"))
        place = ("--nodes=1", "--gpus-per-node=2", f"--nodelist={node}")
        jobs[stage] = submitter.pretrain(*place, steps=steps, arguments=(f"engine.stage={stage}",))
    for job in jobs.values():
        job.finish()
        assert f"on {node}, head node" in job.log
    assert len(jobs[2].records()) == 12
    return jobs


def restarts(job: Job) -> int:
    return int(job.cluster.job(job.number)["Restarts"])


def outcomes(job: Job) -> list[str]:
    events = [json.loads(line) for line in next((job.folder / "logs").glob("*.attempts.jsonl")).read_text().splitlines()]
    return [event["outcome"] for event in events if event["event"] == "end"]


def test_two_nodes_give_the_losses_of_one_and_two_jobs_share_a_node(on_one_node: dict[int, Job], submitter: Submitter) -> None:
    """Under ZeRO-3; the next test compares two nodes with one under ZeRO-2."""
    job = submitter.pretrain(*TWO_NODES, steps=4, arguments=("engine.stage=3",))
    job.finish()
    assert job.records() == on_one_node[3].records()


def preempt(job: Job, ranks: list[int]) -> None:
    """A job of a higher partition takes all nodes; Slurm tells the ranks by SIGTERM.

    They save and leave with 0 within the GraceTime, which alone Slurm would call COMPLETED.
    """
    nodes = len(job.cluster.nodes)
    job.cluster.run("sbatch", "--partition=high", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", "--wrap=true")
    job.thaw_after(ranks, signal.SIGTERM)


def reach_the_time_limit(job: Job, ranks: list[int]) -> None:
    """The limit becomes so short that Slurm's early warning, SIGUSR1, is due."""
    job.cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=4")
    job.thaw_after(ranks, signal.SIGUSR1)
    job.cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")


def requeue(job: Job, ranks: list[int]) -> None:
    """Someone requeues the job."""
    job.cluster.run("scontrol", "requeue", job.number)
    job.thaw_after(ranks, signal.SIGTERM, signal.SIGKILL)


def lose_a_node(job: Job, ranks: list[int]) -> None:
    """The second node of the attempt fails as by a power cut; it is back once the job has noticed."""
    before = restarts(job)
    second = job.cluster.nodes_of(job.number)[1]
    job.cluster.kill_node(second)
    job.thaw(ranks)
    try:
        job.cluster.wait(lambda: restarts(job) > before, "the job to be requeued without its node")
    finally:
        job.cluster.start_node(second)


def test_a_run_that_is_preempted_timed_out_requeued_and_loses_a_node_ends_with_the_undisturbed_numbers(
    on_one_node: dict[int, Job], submitter: Submitter
) -> None:
    """On two nodes; the undisturbed run is on one."""
    disturbances = {3: preempt, 5: reach_the_time_limit, 7: requeue, 9: lose_a_node}
    job = submitter.pretrain(*TWO_NODES, stops=tuple(disturbances))
    for count, (step, disturb) in enumerate(disturbances.items()):
        ranks = job.stopped_ranks(step)
        assert restarts(job) == count, f"before step {step}: each disturbance must cost one restart\n{job.log[-6000:]}"
        disturb(job, ranks)
    job.finish()
    job.cluster.wait_idle()
    assert "restart 0, on" in job.log and "restart 1, on" in job.log, "later attempts append to the log"
    assert restarts(job) >= 4
    ends = outcomes(job)
    assert ends[:2] == ["stopped", "stopped"] and ends[-1] == "finished", "preemption and the time limit stop a run in order"
    assert job.records() == on_one_node[2].records()
