"""Gathers the momentum model's units for its forward pass: consecutive units in one message, and the next messages ahead of time.

The order of the units is that of the last pass. A unit that comes out of order is gathered when it is needed, so the order only
decides how long a pass waits. All ranks run the same modules, hence send the same messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from albef_ds.common import comm
from albef_ds.engine.zero.momentum_groups import MomentumGroup

AHEAD = 2
"""Messages that are gathered while the units of one compute."""


@dataclass(frozen=True)
class Piece:
    """What a unit needs of one message: (size, ...) of each rank, the ranks' parts of some parameters."""

    unit: str
    local: Tensor
    """This rank's part, flat."""


class Message:
    """The pieces of consecutive units on their way from all ranks of a group."""

    def __init__(self, units: Sequence[str], pieces: Sequence[Piece], group: MomentumGroup) -> None:
        self.units = tuple(units)
        self.waiting = set(units)
        """Units that have not computed yet."""
        self._sizes = [(piece.unit, piece.local.numel()) for piece in pieces]
        self._work: Any = None
        local = pieces[0].local if len(pieces) == 1 else torch.cat([piece.local for piece in pieces])
        if group.size == 1 or not comm.is_distributed():
            self._gathered = local[None]
            return
        self._gathered = local.new_empty((group.size, local.numel()))
        self._work = comm.all_gather_single(self._gathered.view(-1), local, group=group.inside, async_op=True)

    @property
    def elements(self) -> int:
        """Returns the elements that the message holds on this rank."""
        return self._gathered.numel()

    def wait(self) -> None:
        """Waits for the message."""
        if self._work is not None:
            self._work.wait()
            self._work = None

    def take(self, unit: str) -> list[Tensor]:
        """Returns the pieces (ranks of the group, size) of a unit, in order, which then has computed."""
        self.wait()
        self.waiting.discard(unit)
        parts = torch.split(self._gathered, [size for _, size in self._sizes], dim=1)
        return [part for part, (name, _) in zip(parts, self._sizes, strict=True) if name == unit]


class Gatherer:
    """Sends the messages of the forward passes.

    Args:
        group: the ranks that gather from each other.
        pieces: name of a unit -> what it needs now; read when a message is sent.
        elements: name of a unit -> its elements.
        bucket_size: largest number of elements of a message with several units.
    """

    def __init__(
        self, group: MomentumGroup, pieces: Callable[[str], list[Piece]], elements: dict[str, int], bucket_size: int
    ) -> None:
        self._group, self._pieces, self._elements = group, pieces, elements
        self._bucket_size = bucket_size if group.size > 1 else 0
        self._trace: list[str] = []
        self._next: dict[str, str | None] = {}
        self._live: dict[str, Message] = {}
        """Units that are arriving or have arrived, and have not computed yet."""
        self._tail = ""
        """Last unit of the message sent last."""
        self.max_elements = 0
        """Largest number of gathered elements so far at one time."""

    def fetch(self, unit: str) -> list[Tensor]:
        """Returns the pieces of a unit that computes now, and starts the messages that follow."""
        self._record(unit)
        if unit not in self._live:
            self._send(unit)
        message = self._live.pop(unit)
        taken = message.take(unit)
        if self._bucket_size:
            self._look_ahead(message)
        self.max_elements = max(self.max_elements, sum(m.elements for m in {message, *self._live.values()}))
        return taken

    def drop(self) -> None:
        """Discards what has arrived and has not computed; the weights may change then."""
        for message in set(self._live.values()):
            message.wait()
        self._live = {}

    def _record(self, unit: str) -> None:
        """Learns the order. A pass begins when its first unit computes again; an update may happen there, so nothing is kept."""
        if self._trace and unit == self._trace[0]:
            self._next[self._trace[-1]] = None
            self._trace = []
            self.drop()
        elif self._trace:
            self._next[self._trace[-1]] = unit
        self._trace.append(unit)

    def _look_ahead(self, current: Message) -> None:
        while len({*self._live.values()} - {current}) < AHEAD:
            following = self._next.get(self._tail)
            if following is None or following in self._live:
                return
            self._send(following)

    def _send(self, first: str) -> None:
        units, elements = [first], self._elements[first]
        while (following := self._next.get(units[-1])) is not None and following not in self._live and following not in units:
            elements += self._elements[following]
            if elements > self._bucket_size:
                break
            units.append(following)
        message = Message(units, [piece for unit in units for piece in self._pieces(unit)], self._group)
        self._live |= dict.fromkeys(units, message)
        self._tail = units[-1]
