"""Submits jobs to Slurm: builds and tests the sbatch command, plans the run, and follows the log.

The batch scripts in slurm/ do the work. Commands run without a shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import albef_ds
from albef_ds.common.errors import ConfigError, MachineError, UserError
from albef_ds.common.exit_codes import CHECK_FAILED
from albef_ds.config.schema import RunConfig
from albef_ds.launch.slurm.site import Site

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "OUT_OF_MEMORY", "BOOT_FAIL", "REVOKED")
"""Job states after which Slurm does not start a job again by itself."""

_POLL = 2.0  # seconds


def scripts_folder() -> Path:
    """Returns the folder slurm/ of the source tree.

    Raises:
        MachineError: albef_ds was installed without its source tree.
    """
    folder = Path(albef_ds.__file__).resolve().parents[1] / "slurm"
    if not (folder / "lib.sh").is_file():
        raise MachineError(f"{folder} does not exist: submit from a source tree of albef_ds (pip install -e)")
    return folder


@dataclass(frozen=True)
class Submission:
    """One call of sbatch: a script of slurm/, the options before it and the arguments after it."""

    script: str
    arguments: Sequence[str]
    site: Site
    options: Sequence[str] = field(default_factory=tuple)

    @property
    def logs(self) -> Path:
        """Folder of the logs, the same as in the script."""
        return Path(self.site.get("ALBEF_LOGS") or ".").absolute()

    def command(self, *extra: str) -> list[str]:
        """Returns the sbatch command, with `extra` options last."""
        name = "%x-%A_%a.log" if any(option.startswith("--array=") for option in self.options) else "%x-%j.log"
        options = ["--parsable", f"--output={self.logs / name}", *self.site.sbatch_options(), *self.options, *extra]
        return ["sbatch", *options, str(scripts_folder() / self.script), *self.arguments]

    def environment(self) -> dict[str, str]:
        """Returns the environment variables that the script needs."""
        ours = {"ALBEF_ROOT": str(scripts_folder().parent)}
        if self.site.path is not None:
            ours["ALBEF_SITE"] = str(self.site.path)
        return ours

    def shown(self) -> str:
        """Returns the command in a form that can be pasted into a shell."""
        return shlex.join(["env", *(f"{name}={value}" for name, value in self.environment().items()), *self.command()])

    def check(self) -> str:
        """Returns the output of `sbatch --test-only`.

        Raises:
            MachineError: Slurm would refuse the job, or is not installed.
        """
        options = [option for option in self.command("--test-only") if not option.startswith("--dependency=")]
        done = _call(options, self.environment())
        text = " ".join((done.stderr or done.stdout).replace("sbatch: ", "").split())
        if done.returncode:
            raise MachineError(f"Slurm would refuse {self.script}: {text}: change the options or slurm/site.env")
        return text

    def submit(self) -> str:
        """Submits the job and returns its number. Raises `MachineError` if Slurm refuses."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"ALBEF_LOGS={self.logs} cannot be created ({error.strerror})"
            raise MachineError(f"{reason}: correct it in {self.site.path}") from None
        done = _call(self.command(), self.environment())
        if done.returncode:
            raise MachineError(f"sbatch refused {self.script}: {' '.join(done.stderr.split())}")
        return done.stdout.strip().partition(";")[0]


def plan_text(config: RunConfig, nodes: int, gpus_per_node: int, memory_gb: float | None) -> str:
    """Returns a text with ranks, batch and memory of the run.

    Raises:
        ConfigError: the batch does not divide over the ranks, the engine has one process, or more than `memory_gb` is needed.
    """
    ranks = nodes * gpus_per_node
    if config.engine.kind == "local" and ranks > 1:
        raise ConfigError(f"engine.kind=local runs one process, not {ranks}: add engine.kind=zero")
    accumulation = config.accumulation_steps(ranks)
    train = config.train
    lines = [
        f"nodes: {nodes} x {gpus_per_node} = {ranks} ranks",
        f"global batch: {train.global_batch_size} = {ranks} ranks x {train.micro_batch_size} x {accumulation} accumulation steps",
    ]
    from albef_ds.launch.planning import plan as planning  # start-up time: torch and the model

    try:
        total = planning.make_plan(config, ranks, node_size=gpus_per_node).total / planning.GB
    except UserError as error:
        lines.append(f"memory per GPU: not planned, {error}")
        return "\n".join(lines)
    lines.append(f"memory per GPU: {total:.1f} GB planned (`albef-ds plan` has the lines)")
    if memory_gb is not None and total > memory_gb:
        raise ConfigError(
            f"the run needs {total:.1f} GB per GPU, more than its {memory_gb:g}: `albef-ds plan` finds settings that fit"
        )
    return "\n".join(lines)


def job_fields(job: str) -> dict[str, str]:
    """Returns the fields of `scontrol show job`, empty if Slurm no longer knows the job."""
    done = _call(["scontrol", "-o", "show", "job", job], {})
    first = done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""
    return dict(word.split("=", 1) for word in first.split() if "=" in word)


def follow(job: str, logs: Path) -> int:
    """Prints the job's changes of state and new lines of its logs until it has ended; returns 0 if it completed, else 1.

    It prints the logs of the batch script and the first node; the other logs are in the same folder.
    """
    seen: dict[Path, int] = {}
    state = ""
    while True:
        fields = job_fields(job)
        now = f"{fields.get('JobState', 'UNKNOWN')} {fields.get('Reason', '')}".removesuffix(" None")
        if now != state:
            print(f"slurm: job {job}: {now}", flush=True)
            state = now
        for path in _followed(logs, fields):
            _print_news(path, seen)
        if not fields or fields["JobState"] in ENDED:
            return 0 if fields.get("JobState") == "COMPLETED" else CHECK_FAILED
        time.sleep(_POLL)


def _followed(logs: Path, fields: dict[str, str]) -> list[Path]:
    stem = f"{fields.get('JobName', '')}-{fields.get('JobId', '')}"
    return [logs / f"{stem}.log", *sorted(logs.glob(f"{stem}-*.log"))[:1]]


def _print_news(path: Path, seen: dict[Path, int]) -> None:
    try:
        with open(path, "rb") as file:
            file.seek(seen.get(path, 0))
            news = file.read()
    except OSError:
        return
    end = news.rfind(b"\n") + 1  # complete lines only; the rest follows with the next call
    if end:
        seen[path] = seen.get(path, 0) + end
        print(news[:end].decode(errors="replace"), end="", flush=True)


def _call(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise MachineError(f"{command[0]} is not installed: submit on a login node of the cluster")
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
