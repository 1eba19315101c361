"""Sources of the momentum update under ZeRO-3 with several momentum groups: how far each is from a dense copy, and what it sends.

    python -m benchmarks.momentum_source --out benchmarks/momentum_source

Four CPU ranks in two groups train a small model in bf16 with a second copy of the parameters in each group (hpZ).
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from albef_ds.engine.zero.momentum import ShardedMomentum
from benchmarks.record import record_parser, write_record
from tests.distributed import run_ranks
from tests.engine.zero.common import make, micro_batches, tiny_config, with_engine

STEPS, DECAY, RATE = 20, 0.9, 1e-3
BASE = 209_936_186
"""Parameters of ALBEF base with a momentum copy."""
OURS = "value of the copy, after its update from the own fp32 master"


def _full(engine: Any) -> dict[str, Tensor]:
    return {name.removeprefix("base."): w.clone() for name, w in engine.tensors("student") if name.startswith("base.")}


def measure(file: str) -> dict[str, Any]:
    """Returns per source the largest difference from the dense copy, relative to the largest weight, and what hpZ holds."""
    engine_settings: dict[str, Any] = {"stage": 3, "precision": "bf16", "momentum_storage": "value_residual"}
    config = with_engine(tiny_config(), momentum_group="2", ds_config=file, **engine_settings)
    config = replace(config, task=replace(config.pretraining(), momentum=DECAY))
    task, engine = make(config)
    momentum = task.momentum
    assert isinstance(momentum, ShardedMomentum)
    dense = _full(engine)
    late, rounded = ({name: w.clone() for name, w in dense.items()} for _ in range(2))
    held = 0
    for step in range(STEPS):
        before = _full(engine)
        engine.train_step(micro_batches(config, step), {"alpha": 0.4}, RATE)
        held += sum(p.ds_secondary_tensor is not None for p in task.parameters())  # type: ignore[attr-defined]
        for name, weights in _full(engine).items():
            dense[name].lerp_(weights, 1 - DECAY)
            late[name].lerp_(before[name].bfloat16().float(), 1 - DECAY)
            rounded[name].lerp_(weights.bfloat16().float(), 1 - DECAY)
    largest = max(float(w.abs().max()) for w in dense.values())
    copies = {"hpZ": late, "parts": rounded, "ours": momentum.full_state_dict()}
    apart = {
        key: max(float((weights - dense[name]).abs().max()) for name, weights in copy.items() if name in dense) / largest
        for key, copy in copies.items()
    }
    return {"apart": apart, "held": held, "parameters": len(list(task.parameters()))}


def main() -> None:
    """Measures and writes the record."""
    arguments = record_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "zero.json"
        file.write_text(json.dumps({"zero_optimization": {"zero_hpz_partition_size": 2}}))
        found = run_ranks(measure, 4, str(file), timeout=900, fresh=True)[0]
    share = BASE // 8 / 1e6
    rows = []
    for name, key, itemsize in (
        ("hpZ's second copy of the parameters, as the next forward pass fills it", "hpZ", 0),
        ("bf16 parts of the parameters after the step", "parts", 2),
        ("fp32 masters after the step", "", 4),
        (OURS, "ours", 2),
    ):
        far = f"{found['apart'][key]:.1e}" if key else "0"
        sent = f"{itemsize * share:.0f}" if itemsize else "0"
        rows.append({"what reaches a rank from other groups": name, "far from the dense copy": far, "MB per step, base": sent})
    notes = [
        f"{STEPS} steps of a small model in bf16, m = {DECAY}, learning rate {RATE:g}; the dense copy averages the fp32 masters.",
        f"After the steps hpZ held {found['held']} of {STEPS * found['parameters']} parameters: DeepSpeed discards its copies in",
        "the step, so what an update could use is late by a step. MB are what a rank of a node of 8 GPUs keeps; it receives all",
        "but its own part. The last source leaves residual and averaging at 1/world of the model on each rank, and is what",
        "`engine.momentum_group` does under ZeRO-3. Its distance is the rounding of value and residual; with fp32 storage it",
        "is 0 (tests/engine/zero/test_momentum_groups.py).",
    ]
    write_record(arguments.out, "Sources of the momentum update under ZeRO-3", notes, rows, ["torch", "deepspeed"], {})


if __name__ == "__main__":
    main()
