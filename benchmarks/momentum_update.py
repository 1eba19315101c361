"""Time of the momentum update: the dense forms, the sharded form in several passes over memory and in one, in turn.

python -m benchmarks.momentum_update --out benchmarks/momentum_update
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from albef_ds.config.recipes.debug import debug
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.engine import build
from albef_ds.engine.zero import momentum_loop
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.engine.zero.momentum_storage import ValueResidual
from albef_ds.models.momentum import DenseMomentum
from benchmarks.record import record_parser, write_record

DENSE = "all tensors in one call, fp32 (dense)"
SEVERAL = "one rank's shard, several passes in torch"
ONE = "one rank's shard, one pass"


class ReleasedMomentum(DenseMomentum):
    """The dense form, updated as in the released code."""

    @torch.no_grad()
    def update(self) -> None:
        """Updates tensor by tensor, with a new tensor for each sum."""
        for momentum, student in self._pairs():
            momentum.data = momentum.data * self.decay + student.data * (1.0 - self.decay)


def measure(forms: dict[str, Callable[[], None]], repetitions: int, device: torch.device) -> dict[str, list[float]]:
    """Returns the seconds of each form in every turn; a turn runs all forms one after the other. The first is not counted.

    On a CPU it is the thread's processor time, since other processes may share the machine.
    """
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repetitions + 1):
        for name, update in forms.items():
            start = clock()
            update()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def same_bits(first: ShardedMomentum, second: ShardedMomentum) -> bool:
    """Returns whether value and residual of all units are equal."""
    storages = zip((unit.storage for unit in first._units), (unit.storage for unit in second._units), strict=True)
    return all(torch.equal(a.sent, b.sent) and torch.equal(a.residual, b.residual) for a, b in storages)  # type: ignore[attr-defined]


def in_cache(repetitions: int = 200) -> float:
    """Returns the processor time of the C loop in ns per weight over 2^18 weights, 2 MB, which stay in the last cache."""
    numel = 2**18
    weights = torch.randn(numel) * 0.02
    storage = ValueResidual(numel)
    storage.write(weights + 0.001 * torch.randn(numel))
    triple = (weights, *storage.parts(0, numel))
    seconds = []
    for _ in range(repetitions):
        start = time.thread_time()
        momentum_loop.average([triple], 0.995)
        seconds.append(time.thread_time() - start)
    return 1e9 * min(seconds) / numel


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--model", choices=("base", "tiny"), default="base")
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    config = pretrain_4m() if arguments.model == "base" else debug()
    student = build.build_task(config).base.to(device)
    released, dense = ReleasedMomentum(student, 0.995), DenseMomentum(student, 0.995)
    several = ShardedMomentum(student, 0.995, update="torch")
    one = ShardedMomentum(student, 0.995, update="triton" if device.type == "cuda" else "auto")
    for sharded in (several, one):
        sharded.to(device)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    forms: dict[str, Callable[[], None]] = {
        "tensor by tensor, fp32 (released code)": released.update,
        DENSE: dense.update,
        SEVERAL: several.update,
        ONE: one.update,
    }
    seconds = measure(forms, arguments.repetitions, device)
    assert same_bits(several, one), "the two sharded forms gave other bits"
    rows = [
        {
            "update": name,
            "ms, least": f"{1e3 * min(times):.1f}",
            "x dense, least": f"{min(times) / min(seconds[DENSE]):.2f}",
            "x dense, median of the turns": f"{median(a / b for a, b in zip(times, seconds[DENSE], strict=True)):.2f}",
            "several passes / this, least": f"{min(seconds[SEVERAL]) / min(times):.2f}",
        }
        for name, times in seconds.items()
    ]
    numel = sum(parameter.numel() for parameter in student.parameters())
    clock = "time" if device.type == "cuda" else "processor time"
    notes = [
        f"{numel / 1e6:.1f}M parameters on one rank (with N ranks each updates 1/N of the sharded forms), "
        f"{arguments.repetitions} turns, in each of which every form runs once; {clock} of one thread. The sharded forms have "
        "4 bytes per parameter over all ranks, the others 4 on every rank. Both sharded forms held the same bits after all turns."
    ]
    if device.type == "cpu" and momentum_loop.FORMS:
        notes += [
            "",
            "The dense form and the one pass both move 12 bytes per weight (student 4; copy 4, or value 2 and residual 2, read "
            f"and written), which alone would allow 1.0 x: the dense form took {1e9 * min(seconds[DENSE]) / numel:.2f} ns per "
            f"weight. The rest is arithmetic: over 262,144 weights in the last cache the one pass took {in_cache():.2f} ns per "
            "weight.",
        ]
    write_record(arguments.out, "The momentum model's update", notes, rows, ["torch"], {"device": arguments.device})


if __name__ == "__main__":
    main()
