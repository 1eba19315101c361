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
absent = ("webdataset", "braceexpand", "simplejpeg", "pyarrow", "scipy", "dask", "distributed")
sys.modules.update(dict.fromkeys(absent))
import importlib
from benchmarks.gpu.rows import Context
from benchmarks.gpu.sections import SECTIONS
from albef_ds.cli.main import main

output, corpus, benchmarks = sys.argv[1:]
for section in SECTIONS:  # a machine with a GPU may have few packages
    importlib.import_module(section.call.partition(":")[0])
for name in absent:
    del sys.modules[name]
for name in benchmarks.split(","):
    importlib.import_module(f"benchmarks.{name}")
tiny = ["--recipe", "debug"]
assert main(["plan", *tiny, "engine.kind=zero", "--gpus", "8", "--memory", "80"]) == 0
assert main(["plan", *tiny, "engine.kind=zero", "--throughput"]) == 0
settings = [f"data.shards={corpus}", "engine.kind=local", "train.max_steps=1", "data.num_workers=0", f"output={output}/run"]
assert main(["train", *tiny, *settings]) == 0
from benchmarks.gpu import fast
context = Context("cpu", "tiny", 60.0, output, f"{output}/rows.jsonl")
assert any(row.what == "eager, 4: images/s" for row in fast.steps_eager(context))
assert not [name for name in sys.modules if name.startswith("deepspeed.")]
"""


def test_planning_and_the_plain_engine_run_without_deepspeed(tmp_path: Path) -> None:
    names = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {*NEEDS_DEEPSPEED})
    assert {"step", "parts", "losses", "attention", "ablation"} <= set(names)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(write_corpus(tmp_path / "corpus")), ",".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "total per rank" in done.stdout
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size > 0
