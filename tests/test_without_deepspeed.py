"""Planning, the plain engine and what is measured with it need no DeepSpeed: one process in which it cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.errors.test_train_errors import write_corpus

ROOT = Path(__file__).resolve().parent.parent
NEEDS_DEEPSPEED = ("checkpoint",)
"""Benchmarks that measure DeepSpeed's own optimizer states."""

PROGRAM = """
import sys
sys.modules["deepspeed"] = None  # importing it raises ImportError
import importlib
import os
from benchmarks import gpu_profile
from albef_ds.cli.main import main

output, corpus, benchmarks = sys.argv[1:]
for name in benchmarks.split(","):
    importlib.import_module(f"benchmarks.{name}")
tiny = ["--recipe", "debug"]
assert main(["plan", *tiny, "engine.kind=zero", "--gpus", "8", "--memory", "80"]) == 0
assert main(["plan", *tiny, "engine.kind=zero", "--throughput"]) == 0
settings = [f"data.shards={corpus}", "engine.kind=local", "train.max_steps=1", "data.num_workers=0", f"output={output}/run"]
assert main(["train", *tiny, *settings]) == 0
sys.argv = ["gpu_profile", "--device", "cpu", "--model", "tiny", "--batch", "2", "--steps", "1", "--out", f"{output}/gpu"]
os.environ.pop("TRITON_INTERPRET", None)
gpu_profile.main()
assert not [name for name in sys.modules if name.startswith("deepspeed.")]
"""


def test_planning_and_the_plain_engine_run_without_deepspeed(tmp_path: Path) -> None:
    names = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {*NEEDS_DEEPSPEED})
    assert {"step", "parts", "losses", "attention", "ablation", "gpu_profile"} <= set(names)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(write_corpus(tmp_path / "corpus")), ",".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "total per rank" in done.stdout
    assert "as configured" in (tmp_path / "gpu.md").read_text() and "Error" not in (tmp_path / "gpu.md").read_text()
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size > 0
