"""Real process groups for tests: N gloo ranks on this machine that run one function under a time limit.

The ranks are kept between calls, since starting a torch process costs seconds; each call gets a process group of its
own. Not for code that keeps process-wide state (an initialised DeepSpeed): ask for `fresh` ranks then.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from albef_ds.common.processes import free_port


class RankError(RuntimeError):
    """A rank failed, died or hung; the text holds its traceback."""


class Ranks:
    """Processes that wait for work. A failure ends them all, since the others may hang in a collective."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # Imported once by the server that the ranks are forked from.
        self._context.set_forkserver_preload(["tests.preload"])
        self._members: list[tuple[ForkServerProcess, Connection]] = []

    def run(self, function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0) -> list[Any]:
        """`function(*args)` on every rank of a new process group; see `run_ranks`."""
        while len(self._members) < world_size:
            self._members.append(self._start())
        members = self._members[:world_size]
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            for rank, (_, connection) in enumerate(members):
                connection.send((function, args, rank, world_size, str(Path(folder) / "store"), port, timeout))
            results = self._collect(members, timeout)
        return [results[rank] for rank in range(world_size)]

    def close(self) -> None:
        """End all ranks."""
        for process, connection in self._members:
            process.kill()
            process.join()
            connection.close()
        self._members = []

    def _start(self) -> tuple[ForkServerProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, sys.path), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _collect(self, members: list[tuple[ForkServerProcess, Connection]], timeout: float) -> dict[int, Any]:
        ranks = {connection: rank for rank, (_, connection) in enumerate(members)}
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        while len(results) < len(members):
            pending = [connection for connection, rank in ranks.items() if rank not in results]
            ready = wait(pending, max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise RankError(f"rank {', '.join(str(ranks[c]) for c in pending)} gave no result within {timeout:g} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = ranks[connection]
                try:
                    failure, payload = connection.recv()
                except EOFError:
                    failure = "the process died without a word\n"
                if failure:
                    failures = {rank: failure} | self._failures([c for c in pending if c is not connection], ranks)
                    self.close()
                    raise RankError("\n".join(f"rank {r} of {len(members)}:\n{failures[r]}" for r in sorted(failures)))
                results[rank] = torch.load(io.BytesIO(payload), weights_only=True)
        return results

    @staticmethod
    def _failures(pending: list[Connection], ranks: dict[Connection, int]) -> dict[int, str]:
        """What the other ranks say within two seconds: the first to report may only have lost its peer."""
        failures: dict[int, str] = {}
        deadline = time.monotonic() + 2.0
        while pending and (ready := wait(pending, max(0.0, deadline - time.monotonic()))):
            for connection in ready:
                assert isinstance(connection, Connection)
                pending.remove(connection)
                try:
                    failure, _ = connection.recv()
                except EOFError:
                    failure = "the process died without a word\n"
                if failure:
                    failures[ranks[connection]] = failure
        return failures


def _serve(connection: Connection, path: list[str]) -> None:
    sys.path[:] = path
    torch.set_num_threads(1)
    while True:
        try:
            function, args, rank, world_size, store, port, timeout = connection.recv()
        except EOFError:
            return
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            OMP_NUM_THREADS="1",
        )
        failure, payload = "", io.BytesIO()
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
            )
            torch.save(function(*args), payload)
            # A rank that leaves early would break the others' last collective.
            dist.barrier()
        except BaseException:
            failure = traceback.format_exc()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        connection.send((failure, payload.getvalue()))


_shared: list[Ranks] = []


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0, fresh: bool = False) -> list[Any]:
    """Run `function(*args)` on `world_size` gloo ranks with one thread each.

    Args:
        function: importable, at the top of a module. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are set and the
            process group is up.
        world_size: number of ranks; 1 is a group of one.
        args: picklable.
        timeout: seconds for the whole call.
        fresh: start processes for this call only.

    Returns:
        What each rank returned, in rank order: tensors, numbers, strings and containers of them.

    Raises:
        RankError: a rank raised (its traceback is the text), died, or none answered in time.
    """
    if fresh:
        ranks = Ranks()
        try:
            return ranks.run(function, world_size, *args, timeout=timeout)
        finally:
            ranks.close()
    if not _shared:
        _shared.append(Ranks())
        atexit.register(_shared[0].close)
    return _shared[0].run(function, world_size, *args, timeout=timeout)
