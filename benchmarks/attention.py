"""Time of the two forms of attention, fused and plain, at the sizes of the base model and of the demonstration.

    python -m benchmarks.attention --out benchmarks/attention

On a CPU, time is the process's CPU time on one thread. The two forms take turns within each repetition, so that other
processes on the machine disturb both equally.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from albef_ds.models.attention import Implementation, attend
from benchmarks.record import record_parser, write_record

FORMS: tuple[Implementation, ...] = ("sdpa", "plain")


@dataclass(frozen=True)
class Case:
    """One attention call of a model: B rows, Q queries and K keys of `heads` heads, each `head_width` wide."""

    name: str
    rows: int
    heads: int
    queries: int
    keys: int
    head_width: int
    masked: bool = False
    dropout: float = 0.0


# Micro-batch 8 of the base model at 256 pixels, 64 of the demonstration. Four texts per pair pass the multimodal encoder.
CASES = [
    Case("base, image", 8, 12, 257, 257, 64),
    Case("base, text", 16, 12, 25, 25, 64, True, 0.1),
    Case("base, text, no dropout", 16, 12, 25, 25, 64, True),
    Case("base, text to image", 32, 12, 25, 257, 64, False, 0.1),
    Case("base, text to image, no dropout", 32, 12, 25, 257, 64),
    Case("demo, image", 64, 3, 37, 37, 64),
    Case("demo, text", 256, 12, 12, 12, 32, True, 0.1),
    Case("demo, text, no dropout", 256, 12, 12, 12, 32, True),
    Case("demo, text to image", 256, 12, 12, 37, 32, False, 0.1),
    Case("demo, text to image, no dropout", 256, 12, 12, 37, 32),
]


def _timed(function: Callable[[], None], calls: int, device: torch.device) -> float:
    """Milliseconds per call: CPU time on a CPU, wall time with the queue drained on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(calls):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (clock() - start) / calls


def _call(case: Case, dtype: torch.dtype, device: torch.device, form: Implementation, backward: bool) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)

    def tensor(length: int) -> Tensor:
        # The layout of `split_heads`: heads are a strided view.
        flat = torch.randn(case.rows, length, case.heads, case.head_width, generator=generator)
        return flat.to(device, dtype).transpose(1, 2).requires_grad_(backward)

    query, key, value = tensor(case.queries), tensor(case.keys), tensor(case.keys)
    mask = None
    if case.masked:
        lengths = torch.randint(case.keys // 2, case.keys + 1, (case.rows, 1), generator=generator)
        mask = (torch.arange(case.keys) < lengths)[:, None, None, :].to(device)
    dropout = case.dropout if backward else 0.0

    def run() -> None:
        output = attend(query, key, value, mask, dropout=dropout, implementation=form)
        if backward:
            torch.autograd.grad(output, (query, key, value), output.detach())

    return run


def measure(case: Case, dtype: torch.dtype, device: torch.device, backward: bool, repetitions: int) -> dict[str, str]:
    """A row of the record: both forms in turn, `repetitions` times each; milliseconds per call, least and median."""
    calls = {form: _call(case, dtype, device, form, backward) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    count = 1
    for form in FORMS:  # warm-up, and a number of calls that the clock resolves
        calls[form]()
        count = max(count, min(50, int(30 / max(_timed(calls[form], 1, device), 0.01))))
    for _ in range(repetitions):
        for form in FORMS:
            times[form].append(_timed(calls[form], count, device))
    size = f"{case.rows} x {case.heads} x {case.queries} x {case.keys} x {case.head_width}"
    row = {"case": case.name, "rows x heads x queries x keys x width": size, "precision": str(dtype).removeprefix("torch.")}
    row |= {"pass": "forward+backward" if backward else "forward"}
    row |= {f"{form}, ms": f"{min(times[form]):.3f}" for form in FORMS}
    row |= {f"{form}, median ms": f"{statistics.median(times[form]):.3f}" for form in FORMS}
    return row | {"sdpa / plain": f"{min(times['sdpa']) / min(times['plain']):.2f}"}


def _instructions(device: torch.device) -> str:
    """The GPU's name, or the vector instructions of the CPU that matter here."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return f"CPU with {', '.join(units) or 'no AVX2'}"


def main() -> None:
    """Measures every case in fp32 and bf16 and writes the record."""
    parser = record_parser(__doc__, "attention")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, rows = torch.device(args.device), []
    for case in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (True, False):
                if not case.dropout or backward:
                    rows.append(measure(case, dtype, device, backward, args.repetitions))
                    print(rows[-1], flush=True)
    clock = "CPU time" if device.type == "cpu" else "wall time"
    notes = [
        f"{_instructions(device)}; {args.threads} thread(s). Milliseconds per call, least and median of {args.repetitions}",
        f"repetitions, {clock}. A ratio below 1: the fused form wins. Dropout acts in forward+backward only.",
    ]
    facts = {"threads": args.threads, "clock": clock, "repetitions": args.repetitions}
    write_record(args.out, "Attention: fused (`sdpa`) against plain", notes, rows, ["torch"], facts)


if __name__ == "__main__":
    main()
