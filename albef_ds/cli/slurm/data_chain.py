"""Plans `albef-data build` as Slurm jobs: arrays for stages that split work, one node or an array for the reductions.

`albef-data stages` lists the stages and their options.
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
class DataStage:
    """One stage, a command of `albef-data`."""

    name: str
    array: bool
    """True if an array of tasks splits its work."""
    options: list[str]
    """Options with a value."""
    flags: list[str]
    """Options without a value."""
    folders: dict[str, str]
    """Folder option of `albef-data build` -> this command's option for it, '' if it is positional."""


@dataclass(frozen=True)
class StageJob:
    """One job: the arguments of `albef-data`, and the number of array tasks (None without an array)."""

    stage: DataStage
    arguments: list[str] = field(default_factory=list)
    num_tasks: int | None = None


def read_stages() -> list[DataStage]:
    """The stages in the order of `albef-data stages`, in which each depends on the previous one.

    Raises:
        MachineError: `albef-data` does not run on this machine.
    """
    command = [sys.executable, "-m", "data_tools.cli", "stages"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path()}, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise MachineError(f"`albef-data` does not run on this machine ({reason}): install it with `pip install albef-ds[data]`")
    return [DataStage(**entry) for entry in json.loads(done.stdout)]


def chain(arguments: Sequence[str], num_tasks: int) -> list[StageJob]:
    """The jobs equivalent to `albef-data build ARGUMENTS`, with `num_tasks` tasks per array.

    With `--partitions` of 2 or more, the reductions are arrays too.

    Raises:
        ConfigError: an unknown option, a missing value, or a missing --work or --out.
        MachineError: as `read_stages`.
    """
    stages = read_stages()
    given = _given_options(arguments, stages)
    values = dict(given)
    for name in dict.fromkeys(name for stage in stages for name in stage.folders):
        if not values.get(name):
            raise ConfigError(f"{name} is missing: give the folder, as for `albef-data build`")
    jobs = []
    for stage in stages:
        own = [pair for pair in given if pair[0] in (*stage.options, *stage.flags)]
        words = [word for pair in own for word in pair if word is not None]
        folders = [word for name, own_name in stage.folders.items() for word in (own_name, str(values[name])) if word]
        tasks = num_tasks if stage.array else _tasks_of_reduction(stage, values.get("--partitions"), num_tasks)
        share = ["--num-tasks", str(tasks)] if tasks else []
        jobs.append(StageJob(stage, [stage.name, *folders, *words, *share], tasks))
    return jobs


def _tasks_of_reduction(stage: DataStage, partitions: str | None, num_tasks: int) -> int | None:
    """Array tasks of a reduction: as many as it has partitions, at most `num_tasks`; None without `--partitions`."""
    if "--partitions" not in stage.options or partitions is None or not partitions.isdigit() or int(partitions) < 2:
        return None
    return min(int(partitions), num_tasks)


def _given_options(arguments: Sequence[str], stages: Sequence[DataStage]) -> list[tuple[str, str | None]]:
    """The given options with their values, None for flags."""
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
            raise ConfigError("--evaluate does not work in jobs: write a hash file with `albef-data hashes` and give --against")
        else:
            raise ConfigError(f"{word} is not an option of a stage: see `albef-data build --help` (the job sets --workers)")
    return found
