"""One training in this process with the plain engine, for benchmarks of many small runs."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.main import main as command_line


def train(recipe: str, output: Path, settings: list[str]) -> Path:
    """Train `recipe` in batches of 64 into `output`, unless it has ended there before; returns `output`."""
    if not (output / "ended").exists():
        engine = ["engine.kind=local", "engine.momentum_storage=dense", "train.micro_batch_size=64"]
        code = command_line(["train", "--recipe", recipe, "--output", str(output), *engine, *settings])
        if code != 0:
            raise SystemExit(f"{output} ended with exit code {code}")
        (output / "ended").touch()
    return output
