"""Fixtures of the Slurm tests: a cluster, started once per test process, and the jobs of a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import numbered_corpus
from tests.slurm.cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {"time", "images_per_second", "tokens_per_second", "data_wait_share"}
SMALL = ["model.vision.width=16", "model.vision.depth=1", "model.text.num_fusion_layers=1", "model.text.width=16"]
"""Halves a checkpoint."""


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A real Slurm of three nodes with eight fake GPUs each, torn down at the end; skips where Slurm is not installed."""
    if missing := SlurmCluster.missing():
        pytest.skip(f"Slurm is not installed ({missing[0]} is missing): `make slurm` installs it on Debian")
    # A short path: munge's socket must fit into a socket address.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, SlurmCluster(Path(folder) / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs in 4 shards: 12 steps of 8 cross two epochs' ends."""
    return numbered_corpus(tmp_path_factory.mktemp("slurm-data") / "corpus", 40, 10)


class Job:
    """A job of this test session in a folder of its own."""

    def __init__(self, cluster: SlurmCluster, folder: Path, number: str) -> None:
        self.cluster, self.folder, self.number = cluster, folder, number
        self.run = folder / "run"
        self.stops = folder / "stops"

    @property
    def log(self) -> str:
        """What the batch script and the nodes have written."""
        paths = [*sorted(self.folder.glob("*.log")), *sorted((self.folder / "logs").glob("*"))]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in paths if path.is_file())

    def wait(self, seconds: float = 540.0) -> str:
        """Wait for the job's end; its state."""
        try:
            return self.cluster.wait_for_end(self.number, seconds)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.log[-6000:]}") from None

    def finish(self) -> None:
        """Wait until the job is COMPLETED."""
        assert self.wait() == "COMPLETED", self.log[-6000:]

    def records(self) -> list[dict[str, Any]]:
        """The steps of the run in order without what a clock measured; of a step that was repeated, the last."""
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        steps = {line["step"]: line for line in lines if line["kind"] == "step"}
        return [{name: steps[step][name] for name in steps[step] if name not in MEASURED} for step in sorted(steps)]

    def stopped_ranks(self, step: int) -> list[int]:
        """Wait until both ranks have stopped themselves before `step`, one of the job's `stops`; their process ids."""
        marks = [self.stops / f"{step}.{rank}" for rank in range(2)]
        found: list[int] = []

        def stopped() -> bool:
            found[:] = self._ranks() if all(mark.exists() for mark in marks) else []
            return len(found) == 2 and all(_state(rank) == "T" for rank in found)

        try:
            self.cluster.wait(stopped, f"the ranks to stop before step {step}")
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.log[-6000:]}") from None
        return list(found)

    def _ranks(self) -> list[int]:
        return [
            process
            for process, variables in self.cluster.processes().items()
            if variables.get("SLURM_JOB_ID") == self.number
            and "albef_ds.cli.slurm.rank" in self.cluster.command_line(process)
            and "RANK" in variables
        ]

    def thaw_after(self, ranks: list[int], *numbers: signal.Signals) -> None:
        """Let frozen ranks go on when each has one of these signals pending (or has been killed)."""
        for rank in ranks:
            self.cluster.wait(lambda rank=rank: _pending(rank, numbers), f"a signal to rank process {rank}")  # type: ignore[misc]
        self.thaw(ranks)

    def thaw(self, ranks: list[int]) -> None:
        """Let frozen ranks go on, those that still are."""
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGCONT)


def _status(process: int) -> dict[str, str]:
    """Fields of /proc/PID/status; none once the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def _state(process: int) -> str:
    """R, S, T (stopped), Z ...; Z also once the process is gone."""
    return _status(process).get("State", "Z")[0]


def _pending(process: int, numbers: tuple[signal.Signals, ...]) -> bool:
    fields = _status(process)
    if not fields or fields["State"].startswith("Z"):
        return True
    bits = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return any(bits & (1 << (number - 1)) for number in numbers)


class Submitter:
    """Submits the shipped scripts as a user would, with a site file for this cluster."""

    def __init__(self, cluster: SlurmCluster, corpus: Path, folder: Path) -> None:
        self.cluster, self.corpus, self.folder = cluster, corpus, folder

    def pretrain(
        self, *sbatch: str, steps: int = 12, arguments: tuple[str, ...] = (), stops: tuple[int, ...] = (), **site: str
    ) -> Job:
        """Submit slurm/pretrain.sbatch with a tiny model under ZeRO-2 on gloo; its ranks stop before the steps `stops`."""
        if stops:
            (self.folder / "stops").mkdir()
            for step in stops:
                (self.folder / "stops" / str(step)).touch()
            hook = Path(__file__).parent / "stops"
            site |= {"ALBEF_TEST_STOPS": str(self.folder / "stops"), "PYTHONPATH": str(hook)}
        engine = ["engine.kind=zero", "engine.device=cpu", "engine.momentum_storage=value_residual"]
        engine.append("train.silence_limit=0")  # frozen ranks are silent for as long as Slurm takes
        engine += SMALL
        lengths = ["train.micro_batch_size=4", f"train.max_steps={steps}", "train.epochs=100", "train.save_every=2"]
        run = [f"data.shards={self.corpus}", f"output={self.folder / 'run'}"]
        return self.submit("pretrain.sbatch", sbatch, ["--recipe", "debug", *engine, *lengths, *run, *arguments], **site)

    def submit(self, script: str, sbatch: tuple[str, ...], arguments: list[str], **site: str) -> Job:
        """Submit any script of slurm/."""
        settings = {"ALBEF_PYTHON": sys.executable, "ALBEF_LOGS": str(self.folder / "logs"), "ALBEF_INTERFACE": "lo"}
        settings |= {"ALBEF_PREFLIGHT": "0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        settings["TORCH_EXTENSIONS_DIR"] = os.environ["TORCH_EXTENSIONS_DIR"]
        site_file = self.folder / "site.env"
        site_file.write_text("".join(f"{name}='{value}'\n" for name, value in (settings | site).items()))
        variables = {"ALBEF_ROOT": str(ROOT), "ALBEF_SITE": str(site_file)}
        command = ["sbatch", "--parsable", "--time=60", *sbatch, str(ROOT / "slurm" / script), *arguments]
        done = self.cluster.call(*command, cwd=self.folder, **variables)
        assert done.returncode == 0, done.stderr
        return Job(self.cluster, self.folder, done.stdout.strip())


@pytest.fixture
def submitter(slurm_cluster: SlurmCluster, corpus: Path, tmp_path: Path) -> Submitter:
    """Submits into a folder of this test."""
    return Submitter(slurm_cluster, corpus, tmp_path)
