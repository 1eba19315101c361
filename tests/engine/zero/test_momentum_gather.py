"""Messages of the momentum model's forward pass: how units are put together, and what happens if their order changes."""

from __future__ import annotations

import pytest
import torch

from albef_ds.engine.zero import momentum_gather
from albef_ds.engine.zero.momentum_gather import AHEAD, Gatherer, Message, Piece
from albef_ds.engine.zero.momentum_groups import MomentumGroup

PAIR = MomentumGroup(((0, 1),), 0)
SIZES = {"a": 4, "b": 3, "c": 3, "d": 9, "e": 2, "f": 2, "g": 2, "h": 2}


class World:
    """A gatherer of units of `SIZES` elements whose messages are written down. Reading one that has not arrived is an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bucket_size: int, group: MomentumGroup = PAIR) -> None:
        self.sent: list[str] = []
        self.travelling: set[Message] = set()
        """Messages that nobody has waited for."""
        self.version = 0.0
        world = self

        class Written(Message):
            def __init__(self, units: list[str], pieces: list[Piece], group: MomentumGroup) -> None:
                super().__init__(units, pieces, group)
                assert not world.gatherer._live.keys() & set(units), "sent twice"
                world.sent.append("".join(units))
                world.travelling.add(self)
                self._work = self

            def wait(self) -> None:
                world.travelling.discard(self)

            def take(self, unit: str) -> list[torch.Tensor]:
                found = super().take(unit)
                assert self not in world.travelling, unit
                return found

        monkeypatch.setattr(momentum_gather, "Message", Written)
        self.gatherer = Gatherer(group, self._pieces, SIZES, bucket_size)

    def _pieces(self, unit: str) -> list[Piece]:
        return [Piece(unit, torch.full((SIZES[unit],), ord(unit) + self.version))]

    def run(self, units: str) -> list[str]:
        """Returns the messages of a forward pass over `units`, each of which must get its own current values."""
        self.sent.clear()
        for unit in units:
            [piece] = self.gatherer.fetch(unit)
            assert piece.tolist() == [[ord(unit) + self.version] * SIZES[unit]], unit
        return list(self.sent)

    def update(self) -> None:
        """Changes the weights, which no message may be reading."""
        self.gatherer.drop()
        assert not self.travelling
        self.version += 0.25


def test_the_first_pass_learns_the_order_and_the_next_ones_send_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 7)
    assert world.run("abcdefgh") == list("abcdefgh")
    # d alone is more than a bucket.
    assert world.run("abcdefgh") == ["ab", "c", "d", "efg", "h"]
    world.update()
    assert world.run("abcdefgh") == ["ab", "c", "d", "efg", "h"]


def test_two_messages_are_on_their_way_while_one_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3)
    world.run("abcdefgh")
    world.sent.clear()
    for number, unit in enumerate("abcdefgh"):
        world.gatherer.fetch(unit)
        assert world.sent == list("abcdefgh"[: number + 1 + AHEAD])
    assert world.gatherer.max_elements == SIZES["b"] + SIZES["c"] + SIZES["d"]


def test_the_units_of_the_message_that_computes_are_not_among_the_two_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 7)
    world.run("abcdefgh")
    world.sent.clear()
    for unit, sent in (("a", ["ab", "c", "d"]), ("b", ["ab", "c", "d"]), ("c", ["ab", "c", "d", "efg"])):
        world.gatherer.fetch(unit)
        assert world.sent == sent


def test_a_shorter_pass_sends_nothing_that_it_does_not_compute_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3)
    world.run("abcdefgh")
    world.run("abc")  # the messages of d and e are sent before it is known that the pass ends
    assert world.run("abc") == list("abc")
    world.run("abcdefgh")
    world.run("abc")
    world.gatherer.fetch("a")
    assert world.gatherer._live.keys() == {"b", "c"}


@pytest.mark.parametrize(
    "passes",
    [
        ["abcdefgh", "abc", "abcdefgh", "abc"],  # the schedule switches the fusion off and on
        ["abcd", "abdc", "abdc", "acbd"],
        ["abcbd", "abcbd", "abcbd"],  # a unit that computes twice
        ["abab", "abab"],  # also the first one: two passes for the gatherer
        ["abacad", "abacad", "abacad"],
        ["h", "hg", "gh", "a"],
    ],
)
@pytest.mark.parametrize("bucket_size", [1, 5, 7, 1000])
def test_every_unit_gets_its_current_values_in_any_order(
    passes: list[str], bucket_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, bucket_size)
    for units in passes:
        world.run(units)
        world.run(units)  # another micro-batch
        world.update()


def test_a_rank_that_holds_everything_prepares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = World(monkeypatch, 7, MomentumGroup(((0,), (1,)), 0))
    assert alone.run("abc") == alone.run("abc") == ["a", "b", "c"]
    assert alone.gatherer.max_elements == SIZES["a"]
