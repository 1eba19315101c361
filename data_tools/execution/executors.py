"""Runs a list of independent, repeatable tasks: here, in a process pool, on a Dask cluster, or as one of N array tasks.

A task writes its result to a file with a final name; the task is done if that file exists. So a killed run continues when it
is started again, and tasks can be split over machines by number alone. This module knows neither what tasks do nor a scheduler.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.common.progress import LogLines, silent

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Parallel:
    """Executor of map stages: processes, Dask scheduler, share of the tasks."""

    workers: int = 0
    """Processes of the pool; 0: one per core this process may use; 1: no pool."""
    address: str = ""
    """`dask://HOST:PORT` of a Dask scheduler instead of a pool."""
    task_index: int = 0
    """Number of this process's share of the tasks, from 0."""
    num_tasks: int = 1
    """Number of shares, one per array task."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}: give 0 (all cores) or more")
        if self.num_tasks < 1 or not 0 <= self.task_index < self.num_tasks:
            raise ConfigError(f"task_index is {self.task_index} of num_tasks {self.num_tasks}: the index goes from 0 to one less")
        if self.address and not self.address.startswith("dask://"):
            raise ConfigError(f"executor {self.address} is unknown: give dask://HOST:PORT, or leave it out for a process pool")

    @property
    def processes(self) -> int:
        """Processes of a pool here; 1 if a Dask cluster does the work."""
        return 1 if self.address else self.workers or len(os.sched_getaffinity(0))

    @property
    def is_share(self) -> bool:
        """True if this process runs only a share of the tasks."""
        return self.num_tasks > 1


ONE = Parallel(workers=1)
"""This process alone."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    parallel: Parallel,
    label: str,
    *,
    size_of: Callable[[Task], int] = lambda task: 1,
    unit: str = "task",
    is_done: Callable[[Task], bool] = lambda task: False,
) -> list[Result]:
    """Applies `function` (importable by name) to this process's share of `tasks`; returns the results in no fixed order.

    Finished tasks are left out after the split, so a task's share does not depend on what others have finished.
    `size_of` gives the `unit`s of work in a task, for the progress bar on a terminal and the lines in a log.

    Raises:
        MachineError: a worker died, Dask is not installed or not reachable.
        Exception: the error of the first failing task; tasks not yet started are cancelled.
    """
    mine = [task for task in tasks[parallel.task_index :: parallel.num_tasks] if not is_done(task)]
    sizes = [size_of(task) for task in mine]
    results: list[Result] = []
    lines = silent if sys.stderr.isatty() else LogLines()
    with tqdm(total=sum(sizes), desc=label, unit=unit, disable=not sys.stderr.isatty() or not mine) as bar:
        count = 0

        def advance(size: int) -> None:
            nonlocal count
            count += size
            bar.update(size)
            lines(f"{label}, {unit}s", count, sum(sizes))

        if not parallel.address and (parallel.processes == 1 or len(mine) <= 1):
            for number, task in enumerate(mine):
                results.append(function(task))
                advance(sizes[number])
            return results
        futures: dict[Future[Result], int] = {}
        try:
            with _executor(parallel, len(mine)) as executor:
                try:
                    for number, task in enumerate(mine):
                        futures[executor.submit(function, task)] = number
                    for future in as_completed(futures):
                        results.append(future.result())
                        advance(sizes[futures[future]])
                finally:
                    for future in futures:
                        future.cancel()
        except BrokenProcessPool:
            raise MachineError(f"a worker of {label} died, most likely of memory: use fewer workers and run again") from None
    return results


@contextmanager
def _executor(parallel: Parallel, num_tasks: int) -> Iterator[Executor]:
    if not parallel.address:
        workers = min(parallel.processes, max(num_tasks, 1))
        # A fork server starts from a clean process, unlike fork, and imports once, unlike spawn.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["data_tools.stages.scan", "data_tools.stages.dedup", "data_tools.stages.write_shards"])
        others = set(multiprocessing.active_children())
        with _Pool(workers, context, initializer=_end_with_run) as pool:
            try:
                yield pool
            except BrokenProcessPool:
                # When a worker dies the pool ends those that it knows. It would wait for ever for one that starts at that moment.
                for worker in set(multiprocessing.active_children()) - others:
                    worker.kill()
                raise
        return
    try:
        from distributed import Client  # optional package
    except ImportError:
        raise MachineError("the executor dask:// needs Dask: pip install 'albef-ds[dask]'") from None
    try:
        client: Any = Client("tcp://" + parallel.address.removeprefix("dask://"), timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        kind = type(error).__name__
        raise MachineError(f"no Dask scheduler answers at {parallel.address} ({kind}): check it is running") from None
    try:
        yield client.get_executor()
    finally:
        client.close()


class _Pool(ProcessPoolExecutor):
    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the base class, which raises `OSError` when a worker dies while another one starts: its pipes are closed by then."""
        try:
            return super().submit(*args, **kwargs)
        except OSError as error:
            raise BrokenProcessPool(str(error)) from error


def _end_with_run() -> None:
    """Ends this worker when the run that started it ends: otherwise it would not notice a kill and would wait for ever."""
    run = multiprocessing.parent_process()

    def watch() -> None:
        if run is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
