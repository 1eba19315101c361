"""Enforces time limits and names the ranks that are late or dead, with their hosts.

A thread on each rank publishes the phase of its training loop through a store (not by a collective, which may hang). It ends
this process when

    this rank's phase exceeds its limit      the message names the ranks that are furthest behind
    another rank sends no heartbeat          the message names it; its node may be lost
    another rank has failed                  that rank has printed the reason

A collective that waits for a lost peer cannot be interrupted from Python, so the process exits with `os._exit`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch.distributed as dist

from albef_ds.common import exit_codes

_POLL = 0.5
"""Seconds between checks for failed ranks."""
_GRACE = 5.0
"""Seconds that a failing rank waits until the others know of it."""
_FAILED = "watchdog/failed"
_HEARD = "watchdog/heard"
_ENDED = "watchdog/ended"


class Phase(IntEnum):
    """Phases of a rank's loop, in the order of a step."""

    START = 0
    DATA = 1
    STEP = 2
    EVALUATION = 3
    SAVE = 4
    AGREEMENT = 5

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Beat:
    """Heartbeat of a rank: `step` of the loop, phase of the step, seconds since the phase began."""

    host: str
    step: int
    phase: Phase
    seconds: float
    number: int
    """Counts the heartbeats."""


class Watchdog:
    """Watches this rank's loop, and the other ranks through `store`.

    Args:
        store: key-value store of the ranks, None for one process. Not the main thread's, which may block in its own.
        limits: seconds allowed for each phase; 0 or absent: no limit.
        silence: seconds without a heartbeat after which a rank counts as dead; 0: never.
        leave: ends the process; tests replace it.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        limits: Mapping[Phase, float],
        silence: float,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._store, self.rank, self.world_size = store, rank, world_size
        self._limits, self._silence, self._leave = limits, silence, leave
        self._step, self._phase, self._since = 0, Phase.START, time.monotonic()
        self._number = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beat_every = min(2.0, silence / 6) if silence else 2.0

    def start(self) -> None:
        """Sends the first heartbeat, so that a rank that is lost at once is missed, and starts watching."""
        with suppress(RuntimeError, OSError):  # the thread says so if the store is lost
            self._tell()
        self._thread.start()

    def close(self) -> None:
        """Stops watching and tells the other ranks that this one has ended."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_GRACE)
        if self._store is not None:
            with suppress(RuntimeError, OSError):
                self._store.set(f"{_ENDED}/{self.rank}", "1")

    def at(self, phase: Phase, step: int) -> None:
        """Notes that the loop has reached `phase` of `step`."""
        self._step, self._phase, self._since = step, phase, time.monotonic()

    @contextmanager
    def phase(self, phase: Phase, step: int) -> Iterator[None]:
        """Same as `at` for a block, after which the time of the phase before it starts from 0 again."""
        before = self._phase
        self.at(phase, step)
        yield
        self.at(before, step)

    def first_to_fail(self, code: int) -> bool:
        """Returns whether this rank failed first and must print the reason; the others exit with `code` when they read it."""
        if self._store is None:
            return True
        try:
            first = self._store.add(_FAILED, 1) == 1
            if first:
                self._closing.set()  # later failures of the others follow from this one
                self._store.set(f"{_FAILED}/code", str(code))
        except (RuntimeError, OSError):
            return True
        return bool(first)

    def wait_until_heard(self) -> None:
        """Waits until the other ranks know of the failure, because this rank's connections end with its process."""
        deadline = time.monotonic() + _GRACE
        while self._store is not None and time.monotonic() < deadline:
            try:
                if self._store.add(_HEARD, 0) >= self.world_size - 1:
                    return
            except (RuntimeError, OSError):
                return
            time.sleep(_POLL / 5)

    def report_loss(self, reason: str) -> int:
        """Names the missing rank after a collective has failed for `reason`, and returns the exit code."""
        try:
            before = {rank: beat.number for rank, beat in self._beats(range(self.world_size)).items()}
            time.sleep(4 * self._beat_every)
            beats = self._beats(range(self.world_size))
            heard = {self.rank} | {rank for rank, beat in beats.items() if beat.number != before.get(rank)}
            silent = [rank for rank in range(self.world_size) if rank not in heard]
        except (RuntimeError, OSError):
            silent, beats = [], {}
        message = f"{_names(silent, beats)} died" if silent else f"lost another rank ({reason})"
        if self.first_to_fail(exit_codes.LOST_RANK):
            self._say(message)
            self.wait_until_heard()
        return exit_codes.LOST_RANK

    def _watch(self) -> None:
        next_beat = 0.0
        while not self._closing.wait(min(_POLL, self._beat_every)):
            now = time.monotonic()
            try:
                if self._store is not None:
                    self._hear()
                if now >= next_beat:
                    next_beat = now + self._beat_every
                    self._tell()
                    self._look_for_silence(now)
            except (RuntimeError, OSError, ValueError):
                if not self._closing.is_set():
                    host = os.environ.get("MASTER_ADDR", "its node")
                    self._end(f"lost the connection to rank 0 on {host}: it died or its node is lost")
                return
            limit = self._limits.get(self._phase, 0.0)
            if limit and now - self._since > limit:
                self._late(limit)

    def _tell(self) -> None:
        self._number += 1
        beat = [socket.gethostname(), self._step, self._phase, time.monotonic() - self._since, self._number]
        if self._store is not None:
            self._store.set(f"watchdog/{self.rank}", json.dumps(beat))

    def _hear(self) -> None:
        if self._store.check([f"{_FAILED}/code"]):
            code = int(self._store.get(f"{_FAILED}/code"))
            self._store.add(_HEARD, 1)
            self._closing.set()
            if self.rank == 0:  # the store may end with this process
                self.wait_until_heard()
            self._leave(code)

    def _beats(self, ranks: Iterable[int]) -> dict[int, Beat]:
        """Returns the last heartbeat of each of `ranks` that has sent one."""
        if self._store is None:
            return {}
        known = [rank for rank in ranks if self._store.check([f"watchdog/{rank}"])]
        return {rank: _beat(self._store.get(f"watchdog/{rank}")) for rank in known}

    def _look_for_silence(self, now: float) -> None:
        if not self._silence or self._store is None:
            return
        # Rank 0 watches all others and they watch it: if all watched all, the requests would grow with the square of the ranks.
        beats = self._beats(range(1, self.world_size) if self.rank == 0 else [0])
        for rank, beat in beats.items():
            if self._seen.get(rank, (None, 0.0))[0] != beat.number:
                self._seen[rank] = (beat.number, now)
        silent = [rank for rank, (_, seen) in self._seen.items() if now - seen > self._silence]
        silent = [rank for rank in silent if not self._store.check([f"{_ENDED}/{rank}"])]
        if silent:
            self._end(f"{_names(silent, beats)} sent no heartbeat for {self._silence:.0f} s: it died or its node is lost")

    def _late(self, limit: float) -> None:
        """Ends the process because this rank's loop has exceeded its limit, and names the ranks that all others wait for."""
        beats = self._beats(range(self.world_size))
        what = f"{self._phase} of step {self._step} takes longer than its limit of {_span(limit)}"
        if not beats:
            self._end(f"{what}: check whether a file system hangs, or raise the limit")
            return
        places = {rank: (beat.step, beat.phase) for rank, beat in beats.items()}
        behind = min(places.values())
        late = [rank for rank, place in places.items() if place == behind]
        if len(late) == self.world_size:
            self._end(f"{what}: all ranks have reached it, so a collective or the network hangs")
        else:
            beat = beats[late[0]]
            self._end(f"{what}: {_names(late, beats)} late, for {_span(beat.seconds)} in {beat.phase} of step {beat.step}")

    def _end(self, message: str) -> None:
        if self.first_to_fail(exit_codes.LOST_RANK):
            self._say(message)
            self.wait_until_heard()
        self._closing.set()
        self._leave(exit_codes.LOST_RANK)

    def _say(self, message: str) -> None:
        print(f"albef-ds [rank {self.rank}]: error: {message}; resume the run to continue", file=sys.stderr, flush=True)


def _beat(text: str) -> Beat:
    host, step, phase, seconds, number = json.loads(text)
    return Beat(host, step, Phase(phase), seconds, number)


def _names(ranks: list[int], beats: Mapping[int, Beat]) -> str:
    named = [f"rank {rank} on {beats[rank].host}" if rank in beats else f"rank {rank}" for rank in ranks]
    more = f" and {len(named) - 4} more" if len(named) > 4 else ""
    return ", ".join(named[:4]) + more


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


def default_store() -> Any:
    """Returns a separate connection to the store of the process group; None without a group of several ranks."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    store = dist.distributed_c10d._get_default_store()
    return store.clone() if hasattr(store, "clone") else store
