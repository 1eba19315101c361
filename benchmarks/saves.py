"""What a save costs beside an earlier build, a plain copy and the safetensors library, in one run.

    git worktree add OTHER COMMIT
    python -m benchmarks.saves --beside OTHER --out benchmarks/saves

One process and thread, the plain engine, `pretrain_4m` (210 million parameters; `--model short` has a third of its layers) with
random weights and moments. The builds take turns, each in a fresh process. `first` is the first save of a process, `second` one
with memory that was used before. The plain copy and the library's `save_file` with fsync get the same tensors in used memory.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.snapshot import restore
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.config.recipes import get_recipe
from albef_ds.engine import build
from benchmarks.record import record_parser, write_record

HERE = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Adds wall and CPU seconds of the block, all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found[f"{name}, s"] = time.perf_counter() - wall
    found[f"{name}, CPU s"] = time.process_time() - cpu


def work(model: str, folder: Path) -> None:
    """Saves twice, checks and loads, and prints the figures."""
    torch.set_num_threads(1)
    config = get_recipe("debug" if model == "tiny" else "pretrain_4m")
    if model == "short":
        vision, text = replace(config.model.vision, depth=4), replace(config.model.text, num_layers=2, num_fusion_layers=2)
        config = replace(config, model=replace(config.model, vision=vision, text=text))
    engine_config = replace(config.engine, kind="local", device="cpu", precision="fp32", momentum_storage="dense")
    config = replace(config, engine=engine_config, optim=replace(config.optim, name="torch"))
    task = build.build_task(config, "fp32")
    build.attach_momentum(task, config)
    engine: Any = build.build_engine(task, config, CPU, "fp32")
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.optimizer.step()
    engine.optimizer.zero_grad()
    saver, found = Saver(folder / "run", config), {}
    saver.root.mkdir(parents=True)
    if hasattr(saver, "prepare"):
        saver.prepare(task)
        saver._memory.reset()  # what a run does until its first save takes longer
    for step, name in ((1, "first"), (2, "second")):
        with timed(found, f"{name}: until whole"):
            with timed(found, f"{name}: training waits"):
                saver.start(engine, task, TrainingProgress(config.train, step=step, samples=step), [])
            result = saver.finish()
        assert result is not None and not result.error, result
    with timed(found, "check"):
        checkpoint = find_checkpoint(folder / "run", "auto")
    assert checkpoint is not None
    with timed(found, "load"):
        restore(checkpoint, engine, task, config)
    found["GB"] = sum(path.stat().st_size for path in checkpoint.iterdir()) / 1e9
    shutil.rmtree(folder / "run")
    parts = {part: dict(engine.tensors(part)) for part in ("student", "exp_avg", "exp_avg_sq")}
    if task.has_momentum:
        parts["momentum"] = {name: tensor.detach() for name, tensor in task.momentum.parameters()}
    kept = {part: {name: tensor.detach().clone() for name, tensor in tensors.items()} for part, tensors in parts.items()}
    with timed(found, "plain copy"):
        for part, tensors in parts.items():
            for name, tensor in tensors.items():
                kept[part][name].copy_(tensor.detach())
    with timed(found, "safetensors + fsync"):
        for part, tensors in kept.items():
            save_file(tensors, folder / f"{part}.safetensors")
            descriptor = os.open(folder / f"{part}.safetensors", os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    print(json.dumps(found))


def turn(root: Path, model: str) -> dict[str, float]:
    """One fresh process of the checkout `root`."""
    with tempfile.TemporaryDirectory(prefix="saves-") as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--work", model, folder]
        paths = os.pathsep.join([str(root), str(HERE)])
        ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures both builds in turn and writes the record."""
    if "--work" in sys.argv:
        return work(sys.argv[2], Path(sys.argv[3]))
    parser = record_parser(__doc__)
    parser.add_argument("--beside", type=Path, required=True, help="a checkout of the earlier build")
    parser.add_argument("--model", choices=("base", "short", "tiny"), default="base")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"now": [], "earlier": []}
    for _ in range(options.turns):
        for form, root in (("now", HERE), ("earlier", options.beside.resolve())):
            found[form].append(turn(root, options.model))
            print(form, found[form][-1], flush=True)
    rows = []
    for name in found["now"][0]:
        values = {form: statistics.median(entry[name] for entry in entries) for form, entries in found.items()}
        ratios = [ours[name] / theirs[name] for ours, theirs in zip(found["now"], found["earlier"], strict=True)]
        row: dict[str, Any] = {"what": name, **{form: round(value, 2) for form, value in values.items()}}
        rows.append({**row, "now / earlier": round(statistics.median(ratios), 2)})
    asked = ["git", "-C", str(options.beside), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    notes = [
        f"{options.turns} turns, medians; `earlier` is commit {commit}. CPU seconds are of all threads. Wall seconds depend on",
        "what else the machine does (its load average is above); the last rows are the same work in either build.",
    ]
    write_record(options.out, "Saves", notes, rows, ["torch", "safetensors"], {"turns": options.turns, "model": options.model})


if __name__ == "__main__":
    main()
