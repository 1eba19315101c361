"""The stages of `albef-data build` as Slurm jobs: arrays for those that share work, one node for the reductions between them.

Which stages there are and which options they take, `albef-data stages` says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.common.processes import python_path


@dataclass(frozen=True)
class Stage:
    """A command of `albef-data`."""

    name: str
    array: bool
    """Whether an array of tasks shares it."""
    options: list[str]
    """With a value."""
    flags: list[str]
    """Without one."""
    folders: dict[str, str]
    """Option of `albef-data build` that names a folder -> this command's option for it, empty if it is positional."""


@dataclass(frozen=True)
class StageJob:
    """One job of the chain: the arguments of `albef-data`, and the number of array tasks or None."""

    stage: Stage
    arguments: list[str] = field(default_factory=list)
    num_tasks: int | None = None


def read_stages() -> list[Stage]:
    """The stages in the order in which each needs the one before, as `albef-data` lists them.

    Raises:
        MachineError: it does not run here.
    """
    command = [sys.executable, "-m", "data_tools.cli", "stages"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path()}, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise MachineError(f"`albef-data` does not run on this machine ({reason}): install it with `pip install albef-ds[data]`")
    return [Stage(**entry) for entry in json.loads(done.stdout)]


def chain(arguments: Sequence[str], num_tasks: int) -> list[StageJob]:
    """The jobs that do what `albef-data build ARGUMENTS` does, `num_tasks` tasks per array.

    Raises:
        ConfigError: an option that no stage knows, a missing value, or neither --work nor --out.
        MachineError: as `read_stages`.
    """
    stages = read_stages()
    given = _given_options(arguments, stages)
    values = dict(given)
    for name in dict.fromkeys(name for stage in stages for name in stage.folders):
        if not values.get(name):
            raise ConfigError(f"{name} is not given: name the folder, as for `albef-data build`")
    jobs = []
    for stage in stages:
        own = [pair for pair in given if pair[0] in (*stage.options, *stage.flags)]
        words = [word for pair in own for word in pair if word is not None]
        folders = [word for name, own_name in stage.folders.items() for word in (own_name, str(values[name])) if word]
        tasks = num_tasks if stage.array else None
        share = ["--num-tasks", str(num_tasks)] if stage.array else []
        jobs.append(StageJob(stage, [stage.name, *folders, *words, *share], tasks))
    return jobs


def _given_options(arguments: Sequence[str], stages: Sequence[Stage]) -> list[tuple[str, str | None]]:
    """Options with their values, None for flags."""
    with_value = {option for stage in stages for option in (*stage.options, *stage.folders)}
    flags = {flag for stage in stages for flag in stage.flags}
    found: list[tuple[str, str | None]] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in flags and not equals:
            found.append((option, None))
        elif option in with_value:
            text = value if equals else next(words, None)
            if text is None:
                raise ConfigError(f"{option} has no value: give one")
            found.append((option, text))
        elif option == "--evaluate":
            raise ConfigError(
                "--evaluate cannot be shared out: write the set's hash file with `albef-data hashes`, then give --against"
            )
        else:
            raise ConfigError(
                f"{word} is no option of a stage: `albef-data build --help` lists them (--workers follows from the job)"
            )
    return found
