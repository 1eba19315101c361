"""Time of the momentum update: tensor by tensor, all tensors in one call, and the sharded fp16 form, in turn.

python -m benchmarks.momentum_update --out benchmarks/momentum_update
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from albef_ds.config.recipes.debug import debug
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.engine import build
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.models.momentum import DenseMomentum
from benchmarks.record import record_parser, write_record


class ReleasedMomentum(DenseMomentum):
    """The dense form, updated as in the released code."""

    @torch.no_grad()
    def update(self) -> None:
        """Updates tensor by tensor, with a new tensor for each sum."""
        for momentum, student in self._pairs():
            momentum.data = momentum.data * self.decay + student.data * (1.0 - self.decay)


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--model", choices=("base", "tiny"), default="base")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    config = pretrain_4m() if arguments.model == "base" else debug()
    student = build.build_task(config).base.to(device)
    released, dense, sharded = (form(student, 0.995) for form in (ReleasedMomentum, DenseMomentum, ShardedMomentum))
    sharded.to(device)
    forms: dict[str, Callable[[], None]] = {
        "tensor by tensor, fp32 (released code)": released.update,
        "all tensors in one call, fp32": dense.update,
        "one rank's shard, fp16 value and residual": sharded.update,
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(arguments.repetitions + 1):
        for name, update in forms.items():
            start = time.perf_counter()
            update()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    least = {name: min(times) for name, times in seconds.items()}
    slowest = next(iter(least.values()))
    rows = [
        {"update": name, "ms, least": f"{1e3 * value:.1f}", "first row / this": f"{slowest / value:.2f}"}
        for name, value in least.items()
    ]
    numel = sum(parameter.numel() for parameter in student.parameters())
    notes = [
        f"{numel / 1e6:.1f}M parameters on one rank (with N ranks each updates 1/N of the third form); {arguments.repetitions} "
        "turns, one thread. The third form has 4 bytes per parameter over all ranks, the others 4 on every rank."
    ]
    write_record(arguments.out, "The momentum model's update", notes, rows, ["torch"], {"device": arguments.device})


if __name__ == "__main__":
    main()
