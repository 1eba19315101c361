"""Time of the two forms of attention, fused and plain, at the sizes of the base model and of the demonstration.

    python -m benchmarks.attention --out benchmarks/attention

writes `attention.json` and `attention.md`. On a CPU it counts the process's CPU time on one thread, the two forms in turn
within each repetition, so that other processes on the machine disturb neither form more than the other.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from albef_ds.common.atomic_files import write_file
from albef_ds.models.attention import Implementation, attend

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


@dataclass(frozen=True)
class Row:
    """Milliseconds per call, the least and the median over the repetitions."""

    case: str
    dtype: str
    what: str
    sdpa_ms: float
    plain_ms: float
    sdpa_median_ms: float
    plain_median_ms: float

    @property
    def ratio(self) -> float:
        """Time of the fused form over that of the plain form: below 1 the fused form wins."""
        return self.sdpa_ms / self.plain_ms


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
        # Laid out as `split_heads` leaves it: heads are a strided view.
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


def measure(case: Case, dtype: torch.dtype, device: torch.device, backward: bool, repetitions: int) -> Row:
    """Both forms in turn, `repetitions` times each."""
    calls = {form: _call(case, dtype, device, form, backward) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    count = 1
    for form in FORMS:  # warm-up, and a number of calls that the clock resolves
        calls[form]()
        count = max(count, min(50, int(30 / max(_timed(calls[form], 1, device), 0.01))))
    for _ in range(repetitions):
        for form in FORMS:
            times[form].append(_timed(calls[form], count, device))
    least = {form: min(times[form]) for form in FORMS}
    median = {form: statistics.median(times[form]) for form in FORMS}
    what = "forward+backward" if backward else "forward"
    return Row(case.name, str(dtype).removeprefix("torch."), what, least["sdpa"], least["plain"], median["sdpa"], median["plain"])


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags.split()]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores, {' '.join(units)}"


def _markdown(record: dict[str, object], rows: list[Row]) -> str:
    lines = [
        "# Attention: fused (`sdpa`) against plain",
        "",
        f"`{record['command']}`, {record['date']}. {record['processor']}; {record['versions']}; {record['threads']} thread(s).",
        f"Milliseconds per call, least of {record['repetitions']} repetitions (median in brackets), {record['clock']}.",
        "A ratio below 1: the fused form wins. Dropout acts in forward+backward only.",
        "",
        "| case | rows x heads x queries x keys x width | precision | pass | sdpa | plain | sdpa / plain |",
        "|---|---|---|---|---|---|---|",
    ]
    sizes = {c.name: f"{c.rows} x {c.heads} x {c.queries} x {c.keys} x {c.head_width}" for c in CASES}
    for row in rows:
        lines.append(
            f"| {row.case} | {sizes[row.case]} | {row.dtype} | {row.what} | {row.sdpa_ms:.3f} ({row.sdpa_median_ms:.3f})"
            f" | {row.plain_ms:.3f} ({row.plain_median_ms:.3f}) | {row.ratio:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case in fp32 and bf16 and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("attention"), help="record without its ending: OUT.json and OUT.md")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rows = []
    for case in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (True, False):
                if case.dropout and not backward:
                    continue
                rows.append(measure(case, dtype, device, backward, args.repetitions))
                print(
                    f"{rows[-1].case:34s} {rows[-1].dtype:9s} {rows[-1].what:17s} sdpa / plain {rows[-1].ratio:.2f}", flush=True
                )
    record: dict[str, object] = {
        "command": f"python -m benchmarks.attention {shlex.join(sys.argv[1:])}",
        "date": date.today().isoformat(),
        "processor": _processor(device),
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        "threads": args.threads,
        "clock": "CPU time" if device.type == "cpu" else "wall time",
        "repetitions": args.repetitions,
    }
    for ending, text in (
        (".json", json.dumps({**record, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}, indent=1) + "\n"),
        (".md", _markdown(record, rows)),
    ):
        write_file(args.out.with_name(args.out.name + ending), text)


if __name__ == "__main__":
    main()
