"""Spread of step times on 4 CPU ranks with Python's garbage collector in charge, and with collections on all ranks together.

python -m benchmarks.garbage --out benchmarks/garbage
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from albef_ds.common.run_files import METRICS_NAME
from benchmarks.record import record_parser, write_record
from data_tools.files.shard_writer import ShardWriter
from tests.data.conftest import sample

FORMS = {"Python chooses (train.gc_every=0)": 0, "all ranks together (train.gc_every=50)": 50}
WARM_UP = 10


def step_times(corpus: Path, output: Path, ranks: int, steps: int, every: int) -> list[float]:
    """Returns the seconds of each step after the first ones of a tiny run under ZeRO-2."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "albef_ds/train.py"]
    engine = ["engine.kind=zero", "engine.stage=2", "engine.momentum_storage=value_residual", "engine.device=cpu"]
    lengths = [
        f"train.max_steps={steps}",
        "train.epochs=1000",
        "train.micro_batch_size=2",
        f"train.global_batch_size={2 * ranks}",
    ]
    more = [f"data.shards={corpus}", "train.log_every=1", f"train.gc_every={every}", "--output", str(output)]
    done = subprocess.run([*command, "--recipe", "debug", *engine, *lengths, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (output / METRICS_NAME).read_text().splitlines()]
    return [2 * ranks / line["images_per_second"] for line in lines if line["kind"] == "step"][WARM_UP:]


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(Path(folder) / "corpus", samples_per_shard=20) as writer:
            for number in range(40):
                writer.add(*sample(number))
        for turn in range(arguments.turns):
            for name, every in FORMS.items():
                output = Path(folder) / f"run-{turn}-{every}"
                seconds[name] += step_times(Path(folder) / "corpus", output, arguments.ranks, arguments.steps, every)
    rows: list[dict[str, Any]] = []
    for name, times in seconds.items():
        tenths = quantiles(times, n=100)
        rows.append(
            {
                "garbage collection": name,
                "steps": len(times),
                "median, ms": f"{1e3 * median(times):.1f}",
                "p90 / median": f"{tenths[89] / median(times):.2f}",
                "p99 / median": f"{tenths[98] / median(times):.2f}",
                "largest / median": f"{max(times) / median(times):.2f}",
            }
        )
    notes = [
        f"Tiny model, ZeRO-2, {arguments.ranks} gloo ranks, {arguments.turns} runs of {arguments.steps} steps of each in turn."
    ]
    write_record(arguments.out, "Garbage collection and the spread of step times", notes, rows, ["torch", "deepspeed"], {})


if __name__ == "__main__":
    main()
