"""Preflight and staging on the nodes of a real Slurm."""

from __future__ import annotations

import shutil

import pytest

from tests.slurm.conftest import Submitter

pytestmark = pytest.mark.timeout(900)  # jobs start, die and start again, perhaps on a machine with other work
CHECKED = ["--recipe", "debug", "engine.kind=zero", "engine.device=cpu"]


def own_shards(submitter: Submitter) -> tuple[str, str]:
    """Shards on every node's own disk but the second's; the override that names them, and that node."""
    first, second, third = submitter.cluster.nodes
    for node in (first, third):
        shutil.copytree(submitter.corpus, submitter.folder / f"shards-{node}")
    return f"data.shards={submitter.folder}/shards-$SLURMD_NODENAME", second


def test_a_node_that_cannot_see_the_shards_is_named(submitter: Submitter) -> None:
    shards, blind = own_shards(submitter)
    run = [*CHECKED, shards, f"output={submitter.folder / 'run'}"]
    job = submitter.submit("preflight.sbatch", ("--nodes=3", "--gpus-per-node=1"), run, ALBEF_MIN_FREE_GB="0")
    assert job.wait() == "FAILED"
    assert job.cluster.job(job.number)["ExitCode"] == "3:0", job.log
    bad = [line for line in job.log.splitlines() if "BAD" in line]
    # Its own answer, not that it gave none in time.
    assert len(bad) == 1 and bad[0].startswith(f"preflight: {blind}: BAD, data.shards:") and "manifest.json" in bad[0]


def test_the_unfit_node_is_left_out_and_the_others_are_measured_staged_and_trained_on(submitter: Submitter) -> None:
    shards, blind = own_shards(submitter)
    scratch = f"{submitter.folder}/scratch-$SLURMD_NODENAME"
    site = {"ALBEF_PREFLIGHT": "1", "ALBEF_MIN_FREE_GB": "0", "ALBEF_SCRATCH": scratch}
    job = submitter.pretrain("--nodes=2", "--gpus-per-node=1", steps=2, arguments=(shards,), **site)
    job.finish()
    fields = job.cluster.job(job.number)
    assert fields["ExcNodeList"] == blind and fields["Restarts"] == "1"
    assert f"preflight: {blind}: BAD" in job.log and "requeue: bad node" in job.log
    assert len(job.records()) == 2 and not list(job.run.glob("preflight-*"))
    for node in (submitter.cluster.nodes[0], submitter.cluster.nodes[2]):
        assert any(f"preflight: {node}: fine" in line and "GB/s" in line for line in job.log.splitlines())
        assert f"slurm: {node}: 4 shards copied" in job.log
        copies = list((submitter.folder / f"scratch-{node}" / "albef-ds" / "shards").glob("*.tar"))
        originals = list((submitter.folder / f"shards-{node}").glob("*.tar"))
        assert sorted(path.read_bytes() for path in copies) == sorted(path.read_bytes() for path in originals)
