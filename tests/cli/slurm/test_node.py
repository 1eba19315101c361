"""Arguments of a node's torchrun, from the variables of the allocation."""

from __future__ import annotations

import time

import pytest

from albef_ds.cli.slurm.node import ranks_per_node, time_limit, too_few_cores, torchrun_arguments
from albef_ds.common.errors import ConfigError, MachineError

JOB = {
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NODEID": "2",
    "SLURM_JOB_ID": "77",
    "SLURMD_NODENAME": "n3",
    "SLURM_GPUS_ON_NODE": "8",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "10154",
}


def test_ranks_and_meeting_point_come_from_the_allocation() -> None:
    words = torchrun_arguments({**JOB, "SLURM_RESTART_COUNT": "3"}, ["train", "--recipe", "debug"])
    assert {"--nnodes=4", "--nproc-per-node=8", "--rdzv-endpoint=n1:10154", "--rdzv-id=77.3", "--local-addr=n3"} <= set(words)
    assert "--rdzv-conf=is_host=0" in words and "--max-restarts=0" in words
    assert "--rdzv-conf=is_host=1" in torchrun_arguments({**JOB, "SLURM_NODEID": "0"}, ["train"])
    assert words[-5:] == ["-m", "albef_ds.cli.slurm.rank", "train", "--recipe", "debug"]


def test_a_rank_per_gpu_or_as_asked_for() -> None:
    assert ranks_per_node(JOB) == 8
    assert ranks_per_node({}) == 1
    assert ranks_per_node({**JOB, "ALBEF_RANKS_PER_NODE": "2"}) == 2
    with pytest.raises(ConfigError, match="ALBEF_RANKS_PER_NODE=two"):
        ranks_per_node({"ALBEF_RANKS_PER_NODE": "two"})


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT", "SLURM_NODEID", "SLURMD_NODENAME"])
def test_a_missing_variable_is_named_and_never_guessed(name: str) -> None:
    with pytest.raises(MachineError, match=f"{name} is not set"):
        torchrun_arguments({**JOB, name: ""}, ["train"])


def test_training_stops_before_the_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    option, value = time_limit({"ALBEF_STOP_AT": str(int(time.time()) + 3600)})
    assert option == "--stop-after" and 3000 < int(value.removesuffix("s")) <= 3600
    assert time_limit({}) == time_limit({"ALBEF_STOP_AT": ""}) == []
    assert time_limit({"ALBEF_STOP_AT": "1"}) == []
    assert "shorter than ALBEF_STOP_MARGIN" in capsys.readouterr().out


def test_a_node_says_when_its_cores_are_too_few() -> None:
    assert "1 core(s) for 8 rank(s) with 4 loader processes each" in too_few_cores(1, 8, 4)
    assert "--cpus-per-gpu" in too_few_cores(15, 8, 4) and not too_few_cores(16, 8, 4)
    assert too_few_cores(7, 8, 0) and not too_few_cores(8, 8, 0)
