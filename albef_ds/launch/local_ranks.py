"""Starts training ranks on this machine, forwards signals to them and waits until all of them have ended.

Starts one process per rank with the usual launch variables, as `torchrun` sets them. Not for several machines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from albef_ds.common import exit_codes
from albef_ds.common.processes import free_port, python_path, stop_signals_to

MOST_RANKS = 8
_POLL = 0.1  # seconds
_GRACE = 10.0  # seconds that the other ranks get to report their error, and again to exit after SIGTERM
_REPORTED_BY_RANK_0 = (exit_codes.MISTAKE, exit_codes.INTERRUPTED, exit_codes.PREEMPTED)
_TAIL = 15  # lines of a failed rank's log


def visible_cores() -> int:
    """Returns the number of CPU cores that this process may use by its affinity and, in a container, its quota."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def default_ranks(workers: int, global_batch_size: int) -> int:
    """Returns one rank per GPU or core, fewer if the global batch is not divisible or gives a rank less than 2 pairs."""
    most = max(1, min(workers, MOST_RANKS, global_batch_size // 2))
    return max(ranks for ranks in range(1, most + 1) if global_batch_size % ranks == 0)


def rank_environment(rank: int, ranks: int, threads: int, port: int, *, cpu: bool) -> dict[str, str]:
    """Returns the environment of one rank. Variables that the user has set for DeepSpeed, gloo or caches are kept."""
    environment = dict(os.environ)
    environment.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
    )
    if cpu:
        environment["DS_ACCELERATOR"] = "cpu"
    if any(name == "lo" for _, name in socket.if_nameindex()):
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise gloo resolves the host name, which may fail in a container
    environment["PYTHONPATH"] = python_path()
    return environment


def launch(command: Sequence[str], ranks: int, threads: int, logs: Path, *, cpu: bool) -> int:
    """Runs `command` once per rank and waits for all ranks.

    Rank 0 writes to this process's output, the others to `logs`/rank-N.log. SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 are forwarded
    once each. When a rank fails, the others are ended and the end of its log is printed.

    `command` runs without a shell, with `threads` as OMP_NUM_THREADS; `cpu` makes DeepSpeed use the CPU. The folder `logs` is
    created if missing. Returns 0, or the exit code of the rank that failed first (128 + N after signal N).
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = free_port()
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    with contextlib.ExitStack() as stack:
        stack.enter_context(stop_signals_to(pass_on))
        for rank in range(ranks):
            output = None if rank == 0 else stack.enter_context(open(logs / f"rank-{rank}.log", "wb"))
            environment = rank_environment(rank, ranks, threads, port, cpu=cpu)
            # Each rank has its own session, so that a terminal's Ctrl-C reaches it only once, through this process.
            running.append(
                subprocess.Popen(
                    list(command), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            )
        try:
            failed = _first_failure(running)
            if failed is None:
                return 0
            _wait(running, _GRACE)
            code = running[failed].returncode
        finally:
            _end(running)
    if failed > 0 and code not in _REPORTED_BY_RANK_0:
        lines = (logs / f"rank-{failed}.log").read_text(errors="replace").splitlines()[-_TAIL:]
        print("\n".join([f"rank {failed} failed:", *lines]), file=sys.stderr)
    return code if code >= 0 else 128 - code


def _first_failure(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Waits and returns the first rank that exits with a code other than 0, or None if all exit with 0."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code not in (None, 0):
                return rank
        if None not in codes:
            return None
        time.sleep(_POLL)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    _wait(processes, _GRACE)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
