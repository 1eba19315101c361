"""Trains and scores small runs in this process with the plain engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from albef_ds.cli.main import main as command_line
from albef_ds.common.run_files import RESULTS_NAME
from albef_ds.evaluation.score_run import Request, score


def train(recipe: str, output: Path, settings: list[str]) -> Path:
    """Trains `recipe` in batches of 64 into `output`, unless that run has ended; returns `output`."""
    if not (output / "ended").exists():
        engine = ["engine.kind=local", "engine.momentum_storage=dense", "train.micro_batch_size=64"]
        code = command_line(["train", "--recipe", recipe, "--output", str(output), *engine, *settings])
        if code != 0:
            raise SystemExit(f"{output} ended with exit code {code}")
        (output / "ended").touch()
    return output


def scored(run: Path, device: str = "cpu") -> dict[str, Any]:
    """The metrics of a fine-tuned run, including `splits`: scored once, then read from its metrics.json."""
    kept = run / RESULTS_NAME
    if not kept.exists():
        score(Request(run), run, torch.device(device), lambda line: None)
    record: dict[str, Any] = json.loads(kept.read_text())
    return record
