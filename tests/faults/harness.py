"""Real runs that are really killed: ranks are processes forked from a server that has imported everything already.

Each rank runs the `albef-ds train` command line and writes down which samples it was given at which step.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from albef_ds.checkpoint.retention import complete_steps
from albef_ds.common.processes import free_port

SMALL = [
    "--recipe=debug",
    "engine.kind=zero",
    "engine.device=cpu",
    "engine.momentum_storage=value_residual",
    "model.vision.width=16",
    "model.vision.depth=1",
    "model.text.num_fusion_layers=1",
    "model.text.width=16",
    "model.text.intermediate_width=32",
    "model.text.dropout=0",
    "train.micro_batch_size=2",
    "train.dry_run_batch=false",
    "train.silence_limit=6",
]
"""A model whose checkpoint is 8 MB; micro-batches are the same on 1, 2 and 4 ranks, hence so are hard negatives."""


def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])  # the same as in tests/distributed.py: a process has one server
    return context


def _rank_main(arguments: list[str], rank: int, world_size: int, port: int, folder: str) -> None:
    """One rank: its variables, its error output in a file, and a record of its samples."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    log = open(Path(folder) / f"stderr-{rank}.txt", "a", buffering=1)  # noqa: SIM115 (open until the process is killed)
    os.dup2(log.fileno(), sys.stderr.fileno())
    import torch

    torch.set_num_threads(1)
    from albef_ds.cli.main import main
    from albef_ds.training.trainer import Trainer

    samples = open(Path(folder) / "samples.jsonl", "a", buffering=1)  # noqa: SIM115
    fetch = Trainer._fetch

    def recorded(trainer: Trainer) -> Any:
        batches = fetch(trainer)
        record = {"step": trainer.progress.step + 1, "rank": rank, "keys": [key for batch in batches for key in batch.keys]}
        record["positions"] = [position for batch in batches for position in batch.positions.tolist()]
        samples.write(json.dumps(record) + "\n")
        return batches

    Trainer._fetch = recorded  # type: ignore[method-assign]
    sys.exit(main(["train", *arguments]))


@dataclass
class Job:
    """The ranks of one invocation of `albef-ds train`."""

    output: Path
    processes: list[ForkServerProcess] = field(default_factory=list)

    def kill(self, ranks: Sequence[int]) -> None:
        """SIGKILL."""
        for rank in ranks:
            process = self.processes[rank]
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)

    def stop(self, rank: int) -> None:
        """SIGSTOP: the process is there and does nothing."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

    @property
    def running(self) -> bool:
        """Whether every rank is alive."""
        return all(process.is_alive() for process in self.processes)

    def join(self, timeout: float) -> list[int | None]:
        """Exit codes once all ranks have ended; those still there after `timeout` are killed and None."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        return codes

    def errors(self) -> str:
        """What the ranks have said."""
        return "\n".join(path.read_text() for path in sorted(self.output.with_name(self.output.name + ".said").glob("stderr-*")))


def start(
    output: Path, ranks: int, arguments: Sequence[str], own: Mapping[int, Sequence[str]] | None = None, resume: str = "auto"
) -> Job:
    """Start a run with `--resume auto`, whatever `output` holds; `own` are further arguments of single ranks.

    What the ranks say and what samples they get lies beside it in OUTPUT.said.
    """
    said = output.with_name(output.name + ".said")
    said.mkdir(parents=True, exist_ok=True)
    port = free_port()
    job = Job(output)
    line = [*arguments, f"--output={output}", f"--resume={resume}"]
    for rank in range(ranks):
        process = _context().Process(target=_rank_main, args=([*line, *(own or {}).get(rank, [])], rank, ranks, port, str(said)))
        process.start()
        job.processes.append(process)
    return job


def wait_for(job: Job, condition: Callable[[], bool], timeout: float) -> bool:
    """Poll until `condition` holds; False if a rank ended or time ran out before."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        if not job.running:
            return False
        time.sleep(0.002)
    return False


def last_step(output: Path) -> int:
    """The last step in the log."""
    steps = [record["step"] for record in records(output)]
    return max(steps, default=0)


def records(output: Path) -> list[dict[str, Any]]:
    """Whole lines of the log's steps."""
    try:
        lines = (output / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := json.loads(line))["kind"] == "step"]


def losses(output: Path) -> dict[int, dict[str, float]]:
    """Step to its losses; of a step done twice the later one counts."""
    return {r["step"]: {k: v for k, v in r.items() if k.startswith("loss")} for r in records(output)}


def samples(output: Path) -> dict[int, list[tuple[int, str]]]:
    """Step to the (position, key) of every sample that any rank was ever given for it, in any attempt."""
    found: dict[int, set[tuple[int, str]]] = {}
    for line in (output.with_name(output.name + ".said") / "samples.jsonl").read_text().split("\n")[:-1]:
        record = json.loads(line)
        found.setdefault(record["step"], set()).update(zip(record["positions"], record["keys"], strict=True))
    return {step: sorted(pairs) for step, pairs in found.items()}


@dataclass(frozen=True)
class Kill:
    """One kill: how many ranks of how many, when, and how long the others took to leave."""

    victims: int
    ranks: int
    moment: str
    step: int
    others_left_after: float
    codes: tuple[int | None, ...]


def disturb(job: Job, chance: random.Random, last: int, timeout: float = 120.0) -> Kill | None:
    """Kill one or all ranks at a random moment before step `last`; None if the run was over first."""
    ranks = len(job.processes)
    victims = list(range(ranks)) if chance.random() < 0.4 else [chance.randrange(ranks)]
    moment = chance.choices(["start-up", "between steps", "while saving"], [1, 4, 5])[0]
    begin = last_step(job.output)
    if moment == "start-up":
        time.sleep(chance.uniform(0.0, 1.0))
    else:
        target = begin + chance.randint(1, max(1, (last - begin) // 3))
        wait_for(job, lambda: last_step(job.output) >= target, timeout)
    if moment == "while saving":
        root = job.output / "checkpoints"
        wait_for(job, lambda: any(root.glob("step-*.tmp")), timeout)
    time.sleep(chance.uniform(0.0, 0.03))
    if not job.running:
        return None
    job.kill(victims)
    killed = time.monotonic()
    codes = tuple(job.join(timeout))
    return Kill(len(victims), ranks, moment, last_step(job.output), time.monotonic() - killed, codes)


def whole_steps(output: Path) -> list[int]:
    """Steps of the finished checkpoints."""
    return complete_steps(output / "checkpoints")
