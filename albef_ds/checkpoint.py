"""Checkpoints: one folder per save, written under a temporary name and renamed when complete.

    checkpoints/step-0000123/
        state.json           step, samples, seconds, world size, versions
        config.json          the resolved configuration
        student.safetensors  the student in fp32 under the task's parameter names, whole
        momentum.safetensors the momentum model, likewise; absent where a task has none, as the queue
        queue.pt             features, ids, pointer
        engine/              optimizer state as the engine saves it
        rng-RANK.pt          generator states per rank

Weights are whole, so a folder can be evaluated or used as initial weights on any machine.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from albef_ds import comm
from albef_ds.config import files
from albef_ds.config.schema import RunConfig, TrainConfig
from albef_ds.engine import Engine, first_line, read_torch_file
from albef_ds.errors import ConfigError
from albef_ds.progress import Progress
from albef_ds.task import Task

FOLDER = "checkpoints"
STATE_NAME = "state.json"


def save_checkpoint(output: Path, config: RunConfig, engine: Engine, task: Task, progress: Progress) -> Path:
    """Write `output/checkpoints/step-N`; all ranks call it together. Returns the folder."""
    final = output / FOLDER / f"step-{progress.step:07d}"
    temporary = final.with_name(final.name + ".tmp")
    if comm.rank() == 0:
        for leftover in final.parent.glob("step-*.tmp"):  # of a run that was killed while it saved
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
    comm.barrier()
    student = engine.full_state_dict()
    momentum = task.momentum.full_state_dict() if task.has_momentum else None
    engine.save(temporary / "engine")
    generators = {"cpu": torch.get_rng_state()}
    if engine.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(engine.device)
    torch.save(generators, temporary / f"rng-{comm.rank()}.pt")
    if comm.rank() == 0:
        save_file(student, temporary / "student.safetensors")
        if momentum is not None:
            save_file(momentum, temporary / "momentum.safetensors")
        if task.feature_queue is not None:
            torch.save(task.feature_queue.state_dict(), temporary / "queue.pt")
        files.save(config, temporary / "config.json")
        state = {
            "step": progress.step,
            "samples": progress.samples,
            "seconds": progress.seconds,
            "world_size": comm.world_size(),
            "torch": torch.__version__,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        (temporary / STATE_NAME).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    comm.barrier()
    if comm.rank() == 0:
        replaced = final.with_name(final.name + ".old.tmp")
        if final.exists():
            os.replace(final, replaced)
        os.replace(temporary, final)
        shutil.rmtree(replaced, ignore_errors=True)
    comm.barrier()
    return final


def find_checkpoint(output: Path, resume: str) -> Path | None:
    """The folder that `--resume` names; with `auto` the newest complete one in `output`, or None where there is none.

    Raises:
        ConfigError: a named folder that is no checkpoint.
    """
    if resume != "auto":
        folder = Path(resume)
        if not (folder / STATE_NAME).is_file():
            raise ConfigError(
                f"--resume {folder} is not a checkpoint folder (no {STATE_NAME}): give RUN/{FOLDER}/step-N, or auto"
            )
        return folder
    complete = [path.parent for path in (output / FOLDER).glob(f"step-*/{STATE_NAME}") if path.parent.suffix != ".tmp"]
    return max(complete, default=None)


def restore_progress(folder: Path, config: TrainConfig) -> Progress:
    """Where the run stood when `folder` was written.

    Raises:
        ConfigError: the state is missing or damaged, or was written by another number of ranks.
    """
    state = files.read_json_object(folder / STATE_NAME)
    try:
        ranks = int(state["world_size"])
        progress = Progress(config, step=int(state["step"]), samples=int(state["samples"]), seconds=float(state["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / STATE_NAME} lacks or misstates {error}: take another checkpoint") from None
    if ranks != comm.world_size():
        raise ConfigError(
            f"{folder} was written by {ranks} ranks, this run has {comm.world_size()}: start as many, or use "
            f"init.checkpoint={folder} to go on from its weights alone"
        )
    return progress


def load_checkpoint(folder: Path, engine: Engine, task: Task) -> None:
    """Restore weights, optimizer, momentum model, queue and generators; all ranks call it, as many as wrote it.

    Raises:
        ConfigError: a file that is missing or damaged, or another model or queue.
    """
    engine.load(folder / "engine")
    momentum = _tensors(folder / "momentum.safetensors") if task.has_momentum else {}
    queue = read_torch_file(folder / "queue.pt") if task.feature_queue is not None else {}
    generators = read_torch_file(folder / f"rng-{comm.rank()}.pt")
    try:
        if task.has_momentum:
            task.momentum.load_full_state_dict(momentum)
        if task.feature_queue is not None:
            task.feature_queue.load_state_dict(queue)
        torch.set_rng_state(generators["cpu"])
        if engine.device.type == "cuda" and "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], engine.device)
    except (RuntimeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} does not fit this run ({first_line(error)}): keep the settings in {folder / 'config.json'}"
        ) from None


def load_task_weights(task: Task, folder: Path) -> str:
    """Fill the student, and the momentum model if one is attached, from a checkpoint folder; returns a line for the log.

    Raises:
        ConfigError: missing, damaged, or another model's weights.
    """
    student = _tensors(folder / "student.safetensors")
    own = dict(task.named_parameters())
    different = sorted(own.keys() ^ student.keys()) or sorted(n for n in own if own[n].shape != student[n].shape)
    if different:
        raise ConfigError(
            f"{folder} does not fit this model: {len(different)} parameters differ, first {different[0]}: use the model "
            f"settings in {folder / 'config.json'}"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(student[name])
    if task.has_momentum:
        task.momentum.load_full_state_dict(_tensors(folder / "momentum.safetensors"))
    return f"{len(own)} tensors, 100% of the parameters, from {folder}"


def load_config(folder: Path) -> RunConfig:
    """The configuration that a checkpoint was written with."""
    return files.load(folder / "config.json")


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): take another checkpoint") from None
