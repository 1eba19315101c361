"""A project that uses `albef_ds` is type-checked: `albef_ds.load` and the model's methods have types, and misuse is an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

USE = """\
import albef_ds

model = albef_ds.load("runs/pretrain", device="cpu")
reveal_type(model)
reveal_type(model.match("cat.jpg", "a cat"))
reveal_type(model.answer("cat.jpg", "what is it?"))
albef_ds.load(3)
model.match("cat.jpg", 3)
albef_ds.laod("runs/pretrain")
"""


def test_mypy_knows_what_load_and_match_return(tmp_path: Path) -> None:
    """Runs mypy with the settings and the cache of `make lint`, whose strict check has already read torch."""
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "use.py")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    said = re.findall(r"use\.py:(\d+): (?:note: Revealed type is \"([\w.\[\]]+)\"|error: .*\[([\w-]+)\])", done.stdout)
    assert [(int(line), kind or error) for line, kind, error in said] == [
        (4, "albef_ds.inference.model.AlbefModel"),
        (5, "torch._tensor.Tensor"),
        (6, "list[str]"),
        (7, "arg-type"),
        (8, "arg-type"),
        (9, "attr-defined"),
    ], done.stdout + done.stderr
