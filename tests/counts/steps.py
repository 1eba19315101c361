"""Counts of one optimizer step of a tiny model under DeepSpeed, per stage and number of ranks: collectives, bytes, FLOPs,
operators. Counts, not times, so they hold on any machine.

    python -m tests.counts.steps          # write tests/counts/*.json anew

A change that is meant changes the files in the same commit; the test prints what differs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.communication import Traffic, step_traffic
from albef_ds.launch.planning.parameter_counts import count
from albef_ds.launch.planning.recorder import recorded
from tests.distributed import run_ranks
from tests.engine.zero.common import make, micro_batches, tiny_config, with_engine

FOLDER = Path(__file__).parent
WORLD_SIZES = (2, 4)
_PACKAGES = ("torch", "deepspeed", "timm")
_WARM_UP = 1
"""Steps before the counted one: ZeRO-3 and the momentum model learn the order of modules in its first micro-batch."""


@dataclass(frozen=True)
class Case:
    """One setting of the engine; `zero` are ZeRO knobs."""

    name: str
    stage: int
    precision: str = "fp32"
    gather_negatives: bool = False
    zero: tuple[tuple[str, int], ...] = ()
    bucket_size: int = 12_000
    """Of the momentum model, in elements: two units to a message."""
    momentum_group: str = "world"


# Few parameters of the tiny model are small, so that ZeRO-3 fetches most of them as it does a real model's.
_FETCH = (("stage3_param_persistence_threshold", 100),)
_LARGE = 10_000_000_000
_FEW = (
    ("stage3_param_persistence_threshold", 0),
    ("stage3_prefetch_bucket_size", 12_000),
    ("stage3_max_live_parameters", _LARGE),
    ("stage3_max_reuse_distance", _LARGE),
)
"""As in the files of ds_configs/ for many GPUs."""
CASES = [
    Case("stage 1", 1),
    Case("stage 2", 2),
    Case("stage 3", 3, zero=_FETCH),
    Case("stage 1, momentum groups of 2", 1, momentum_group="2"),
    Case("stage 3, momentum groups of 2", 3, zero=_FETCH, momentum_group="2"),
    Case("stage 3, few messages", 3, "bf16", zero=_FEW),
    Case("stage 2, bf16, negatives of all ranks", 2, "bf16", gather_negatives=True),
    Case("stage 3, bf16, negatives of all ranks", 3, "bf16", gather_negatives=True, zero=_FETCH),
]


def cases(world_size: int) -> list[Case]:
    """At 2 ranks all that fit; at 4 the plain stages and groups, for the time that processes take to start."""
    return [*CASES[:3], *CASES[5:]] if world_size == 2 else CASES[:5]


def configuration(case: Case, world_size: int, folder: Path) -> RunConfig:
    """Two micro-batches per step and rank; the ZeRO file of the case is written to `folder`."""
    config = tiny_config()
    task = replace(config.pretraining(), gather_negatives=case.gather_negatives, mask_unfilled_queue=False)
    train = replace(config.train, global_batch_size=2 * world_size * config.train.micro_batch_size)
    file = ""
    if case.zero:
        path = folder / f"{CASES.index(case)}.json"
        path.write_text(json.dumps({"zero_optimization": dict(case.zero)}))
        file = str(path)
    config = replace(config, task=task, train=train)
    engine = {
        "momentum_storage": "value_residual",
        "momentum_bucket_size": case.bucket_size,
        "momentum_group": case.momentum_group,
    }
    return with_engine(config, stage=case.stage, precision=case.precision, ds_config=file, **engine)


def _count_step(config: RunConfig) -> dict[str, Any]:
    _, engine = make(config)
    schedule = {"alpha": 0.4}
    for step in range(_WARM_UP):
        engine.train_step(micro_batches(config, step), schedule, 1e-3)
    with recorded() as counts:
        result = engine.train_step(micro_batches(config, _WARM_UP), schedule, 1e-3)
    assert not result.skipped
    return {"traffic": counts.traffic, "operators": counts.operators, "flops": counts.flops}


def _count_steps(configs: list[RunConfig]) -> list[dict[str, Any]]:
    found = [_count_step(config) for config in configs]
    return [{**one, "traffic": [vars(traffic) for traffic in one["traffic"]]} for one in found]


@lru_cache
def measured(world_size: int) -> dict[str, dict[str, Any]]:
    """Counts per case of every rank, and the formula's `planned` traffic."""
    with tempfile.TemporaryDirectory() as folder:
        configs = [configuration(case, world_size, Path(folder)) for case in cases(world_size)]
        ranks = run_ranks(_count_steps, world_size, configs, timeout=1500, fresh=True)
        planned = [step_traffic(config, count(config), config.engine.precision, world_size) for config in configs]
    return {
        case.name: {"ranks": [rank[number] for rank in ranks], "planned": planned[number]}
        for number, case in enumerate(cases(world_size))
    }


def table(world_size: int) -> dict[str, Any]:
    """What is committed: rank 0's counts."""
    steps = {}
    for name, found in measured(world_size).items():
        own = found["ranks"][0]
        lines = [Traffic(**traffic) for traffic in own["traffic"]]
        collectives = {_name(t): f"{t.num_bytes} bytes in {t.calls} calls, {_hidden(t, found['planned'])}" for t in lines}
        steps[name] = {"flops": own["flops"], "operators": own["operators"], **collectives}
    return {"ranks": world_size, "versions": {name: version(name) for name in _PACKAGES}, "cases": steps}


def _hidden(traffic: Traffic, planned: list[Traffic]) -> str:
    """Returns the computation that hides the messages, by the formula."""
    phases = sorted({one.beside for one in planned if _name(one) == _name(traffic)})
    return " or ".join(f"beside the {phase} pass" if phase else "waited for" for phase in phases)


def _name(traffic: Traffic) -> str:
    within = f" within {traffic.ranks} ranks" if traffic.ranks else ""
    within = within.replace("within", "across") if traffic.apart else within
    return f"{traffic.purpose} {traffic.operation} {traffic.dtype}{within}"


def file_of(world_size: int) -> Path:
    """Where the counts of so many ranks are kept."""
    return FOLDER / f"ranks_{world_size}.json"


def main() -> None:
    """Write the files, or those of the numbers of ranks given."""
    for world_size in map(int, sys.argv[1:] or WORLD_SIZES):
        file_of(world_size).write_text(json.dumps(table(world_size), indent=1) + "\n")


if __name__ == "__main__":
    main()
