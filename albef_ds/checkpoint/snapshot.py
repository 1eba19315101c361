"""Collects the content of a checkpoint from a run, and restores it to a run.

Tensors are unsharded and under the task's parameter names, so a checkpoint does not depend on the number of ranks, the ZeRO
stage or the engine that wrote it. Files are written in `saver.py` and checked in `find.py`.
"""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, TensorsOnDemand
from albef_ds.checkpoint.tensor_files.opening import open_tensors
from albef_ds.checkpoint.tensor_files.tensor_file import TensorFile
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.common import comm
from albef_ds.common.errors import UserError, WeightsError, first_line
from albef_ds.common.run_files import CONFIG_NAME, MOMENTUM_NAME, QUEUE_NAME, STATE_NAME, STUDENT_NAME, rank_file, tensors_file
from albef_ds.config import files
from albef_ds.config.schema import RunConfig, TrainConfig
from albef_ds.data.randomness import mix
from albef_ds.engine.interface import MOMENTS, STUDENT, Engine
from albef_ds.tasks.base import Task

_DROPOUT = 0x5EED
"""Purpose number of dropout's generators, beside those in `albef_ds.data.randomness`."""

Window = list[dict[str, float]]
"""Numbers of the steps since the last log line, on one rank."""


def take_snapshot(
    config: RunConfig,
    engine: Engine,
    task: Task,
    progress: TrainingProgress,
    window: Window,
    metrics: Mapping[str, float],
    copy: Callable[[Tensor], Tensor],
    ready: Callable[[str, Mapping[str, Tensor] | str], None],
) -> None:
    """Copies the state of the run to the CPU; all ranks call it together.

    Parameters are gathered one by one, and one rank keeps each file: a rank holds its files and at most one more parameter.

    Args:
        config: the run's settings.
        engine: holds the student and its moments.
        task: holds momentum model and queue.
        progress: position of the run.
        window: numbers of the steps that are not logged yet.
        metrics: the last evaluation's.
        copy: returns a copy of a tensor on the CPU.
        ready: is given each of this rank's files as soon as it is copied, by its name: tensors or a text.
    """
    parts: list[tuple[str, Iterable[tuple[str, Tensor]]]] = []
    parts += [(tensors_file(part), engine.tensors(part)) for part in (STUDENT, *MOMENTS)]
    if task.has_momentum:
        parts.append((MOMENTUM_NAME, task.momentum.parameters()))
    plain: dict[str, dict[str, Any]] = {}
    if task.queue is not None:
        queue = task.queue.state_dict()
        parts.append((QUEUE_NAME, ((key, value) for key, value in queue.items() if isinstance(value, Tensor))))
        plain["queue"] = {key: value for key, value in queue.items() if not isinstance(value, Tensor)}
    for number, (name, tensors) in enumerate(parts):
        if number % comm.world_size() == comm.rank():
            ready(name, {key: copy(tensor) for key, tensor in tensors})
        else:
            for _ in tensors:  # every rank takes part in gathering what another rank keeps
                pass
    counters = engine.counters()
    ready(rank_file(comm.rank()), {**_generators(engine.device), "window": _as_rows(window)})
    if comm.rank() == 0:
        state = {
            **{name: value for name, value in asdict(progress).items() if name not in ("config", "num_samples")},
            "world_size": comm.world_size(),
            "engine": config.engine.kind,
            "stage": config.engine.stage,
            "counters": counters,
            "outside": plain,
            "window": _names(window),
            "metrics": dict(metrics),
            "versions": versions(),
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        ready(STATE_NAME, json.dumps(state, indent=1) + "\n")
        ready(CONFIG_NAME, json.dumps(files.to_dict(config), indent=2, ensure_ascii=False) + "\n")


def snapshot_bytes(task: Task) -> int:
    """About the bytes of this rank's files: each is in fp32 and on one rank."""
    numel = sum(parameter_shape(parameter).numel() for parameter in task.parameters())
    sizes = [4 * numel] * (1 + len(MOMENTS) + task.has_momentum)
    return sum(sizes[comm.rank() :: comm.world_size()])


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's `state.json`. Raises WeightsError if it is missing or damaged."""
    return files.read_json_object(folder / STATE_NAME)


def restore_progress(folder: Path, config: TrainConfig) -> TrainingProgress:
    """The run's progress when `folder` was written. Raises WeightsError if the state is missing or damaged."""
    state = read_state(folder)
    try:
        return TrainingProgress(
            config,
            step=int(state["step"]),
            samples=int(state["samples"]),
            seconds=float(state["seconds"]),
            skipped_samples=int(state["skipped_samples"]),
            holes=[(int(start), int(end)) for start, end in state["holes"]],
            # Checkpoints of older versions have no mixture.
            mixture=[(int(start), {name: int(n) for name, n in quotas.items()}) for start, quotas in state.get("mixture", [])],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / STATE_NAME} lacks or misstates {error}: take another checkpoint") from None


def restore(folder: Path, engine: Engine, task: Task, config: RunConfig) -> Window:
    """Restores the state in `folder` to a run of any number of ranks and any engine; all ranks call it together.

    Returns this rank's numbers of the steps not yet logged. Raises WeightsError if a file is missing, damaged, or of another
    model or task.
    """
    state = read_state(folder)
    student = TensorFile(folder / STUDENT_NAME)
    shapes = {name: parameter_shape(parameter) for name, parameter in task.named_parameters()}
    check_fit(student, shapes)
    moments = {part: TensorFile(folder / tensors_file(part)) for part in MOMENTS}
    try:
        engine.load_tensors(STUDENT, student)
        for part, tensors in moments.items():
            engine.load_tensors(part, tensors)
        engine.load_counters(state["counters"])
        if task.has_momentum:
            _restore_momentum(folder / MOMENTUM_NAME, task)
        if task.queue is not None:
            task.queue.restore(TensorFile(folder / QUEUE_NAME), state["outside"]["queue"]["_extra_state"])
        return _restore_rank(folder, state, engine.device, config.train.seed)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        config_path, reason = folder / CONFIG_NAME, first_line(error)
        raise WeightsError(f"{folder} does not fit this run ({reason}): keep the settings in {config_path}") from None


def _restore_momentum(path: Path, task: Task) -> None:
    """Restores the momentum model; parts that were frozen when the checkpoint was written are the student's."""
    stored = dict(open_tensors(path).tensors)
    if any(parameter.requires_grad and name not in stored for name, parameter in task.base.named_parameters()):
        task.momentum.copy_from_student()
        stored = {name: LazyTensor.of(whole) for name, whole in task.momentum.parameters()} | stored
    task.momentum.load_full_state_dict(TensorsOnDemand(stored))


def parameter_shape(parameter: Tensor) -> torch.Size:
    """Full shape of a parameter; under ZeRO-3 the parameter is a flat shard with the full shape as an attribute."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def check_fit(stored: TensorFile, shapes: Mapping[str, torch.Size]) -> None:
    """Raises WeightsError unless the file holds exactly these names and shapes."""
    different = sorted(stored.names ^ shapes.keys()) or sorted(n for n in shapes if stored.shape(n) != shapes[n])
    if different:
        folder, config, first = stored.path.parent, stored.path.with_name(CONFIG_NAME), different[0]
        problem = f"{len(different)} parameters differ, first {first}"
        raise WeightsError(f"{folder} does not fit this run: {problem}: keep the model settings in {config}")


def seed_generators(seed: int, step: int) -> None:
    """Seeds each rank's dropout generators as a function of (seed, step, rank)."""
    torch.manual_seed(mix(seed, step, comm.rank(), _DROPOUT) >> 1)


def _restore_rank(folder: Path, state: Mapping[str, Any], device: torch.device, seed: int) -> Window:
    ranks, names = int(state["world_size"]), [str(name) for name in state["window"]]
    if ranks == comm.world_size():
        own = TensorFile(folder / rank_file(comm.rank()))
        torch.set_rng_state(own["generator.cpu"])
        if device.type == "cuda" and "generator.cuda" in own:
            torch.cuda.set_rng_state(own["generator.cuda"], device)
        rows = own["window"]
    else:
        seed_generators(seed, int(state["step"]))
        rows = torch.stack([TensorFile(folder / rank_file(rank))["window"] for rank in range(ranks)]).mean(dim=0)
    return [dict(zip(names, row, strict=True)) for row in rows.tolist()] if names else []


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"generator.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["generator.cuda"] = torch.cuda.get_rng_state(device)
    return states


def _names(window: Window) -> list[str]:
    return list(dict.fromkeys(name for row in window for name in row))


def _as_rows(window: Window) -> Tensor:
    """A row of numbers per step, with 0 for a loss that the step does not have."""
    rows = [[row.get(name, 0.0) for name in _names(window)] for row in window]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(window), len(_names(window)))


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and the packages, and the commit of this package if it runs from a repository."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("albef_ds", "deepspeed", "transformers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "commit": _commit(Path(__file__).resolve().parents[1])}


def _commit(package: Path) -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may be inside another repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
