"""Command line of the GPU suite.

    make gpu MINUTES=9 OUT=runs/gpu
    python -m benchmarks.gpu --minutes 9 --out runs/gpu --sections right fast.steps_compiled
    python -m benchmarks.gpu --device cpu --model tiny --out runs/gpu          # a rehearsal without a GPU

Sections run in order of worth, each in a process of its own under a time limit. OUT/gpu.md and gpu.json are written after every
section, OUT/logs/ has what each printed. The exit code is 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.runner import Runner
from benchmarks.gpu.sections import SECTIONS, Section

ENVIRONMENT = {
    # Deterministic products, for the bitwise comparison.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Asking for a GPU does not open one, so processes can be forked after it.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ON_A_CPU = {"TRITON_INTERPRET": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def chosen(names: list[str] | None) -> list[Section]:
    """The sections of these names or groups, in the suite's order; all for None. Raises ValueError for an unknown name."""
    known = {name for section in SECTIONS for name in (section.name, section.group)}
    if unknown := sorted(set(names or ()) - known):
        raise ValueError(f"--sections {' '.join(unknown)} is not known: give {', '.join(sorted(known))}")
    return [s for s in SECTIONS if not names or s.name in names or s.group in names]


def main(argv: list[str] | None = None) -> int:
    """Runs the sections; returns 1 if any failed, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="budget; what does not fit is not run (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the report (%(default)s)")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="sections or groups (right, fast, learns); all by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=("base", "tiny"), default="base", help="tiny: a test of the program")
    parser.add_argument(
        "--start", choices=("forkserver", "spawn"), default="forkserver", help="how processes start (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        sections = chosen(arguments.sections)
    except ValueError as error:
        parser.error(str(error))
    os.environ.update(ENVIRONMENT if arguments.device == "cuda" else {**ENVIRONMENT, **ON_A_CPU})
    if arguments.device == "cuda" and not _gpu_is_there():
        parser.error("torch sees no CUDA GPU here: give --device cpu --model tiny to rehearse")
    command = shlex.join(["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running section is ended too
    budget, facts = 60 * arguments.minutes, {"command": command}
    try:
        runner = Runner(arguments.out, arguments.device, arguments.model, budget, arguments.start, facts)
    except (OSError, ValueError) as error:
        parser.error(f"--out {arguments.out}: {error}")
    passed = runner.run(sections)
    print(f"{arguments.out / 'gpu.md'} written")
    return 0 if passed else 1


def _gpu_is_there() -> bool:
    """Asks in another process, so that this one starts no driver."""
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
