"""The order of a mixture: a pure function of (the corpora's orders, their quotas, seed), with random access.

Positions are divided into blocks of `BLOCK` groups of samples. Each block has as many groups of a corpus as its quota, in an
order drawn from (seed, block). The n-th group of a corpus in the sequence is the n-th group of that corpus's own order, so
every corpus runs through its own epochs, without losses or repeats within one, whatever its share.

Quotas that change when a run resumes begin a new section there. The corpora go on where they were, which follows from the earlier
sections, so a mixture's state is the list of its sections beside the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError
from albef_ds.data import randomness
from albef_ds.data.stream.order import SampleOrder

BLOCK = 1000
"""Groups of a block: shares are thousandths."""

Section = tuple[int, Mapping[str, int]]
"""First position, and the quota of each corpus by name."""


def quotas_of(weights: Mapping[str, float]) -> dict[str, int]:
    """Returns integer quotas with the sum `BLOCK`, by largest remainders; a corpus with any weight has at least 1."""
    total = sum(weights.values())
    exact = {name: weight / total * BLOCK for name, weight in weights.items()}
    quotas = {name: max(1, int(value)) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: quotas[name] - exact[name])
    while (left := BLOCK - sum(quotas.values())) > 0:
        for name in by_remainder[:left]:
            quotas[name] += 1
    while sum(quotas.values()) > BLOCK:
        quotas[max(quotas, key=lambda name: quotas[name])] -= 1
    return quotas


class MixedOrder:
    """Maps a position to (shard, row), with the shards of all corpora numbered one after the other.

    Args:
        orders: the corpora's own orders, by name.
        sections: the quotas so far, by first position; the first begins at or before every position that is asked for.
        num_samples: samples of one epoch of the mixture.
        seed: of the order within blocks.
        group_size: samples of a corpus that stay together.

    """

    def __init__(
        self, orders: Mapping[str, SampleOrder], sections: Sequence[Section], num_samples: int, seed: int, group_size: int = 1
    ) -> None:
        self.num_samples = num_samples
        self._orders, self._names = list(orders.values()), list(orders)
        self._seed, self._group_size = seed, group_size
        self._first_shard = np.cumsum([0, *(order.num_shards for order in self._orders)]).tolist()
        self.sections = [(start, dict(quotas)) for start, quotas in sections]
        self._starts = [start for start, _ in sections]
        # A section keeps the order in which its corpora were named then, which decides the order within its blocks.
        self._members = [list(quotas) for _, quotas in sections]
        self._quotas = [tuple(quotas.values()) for _, quotas in sections]
        ends = self._starts[1:]
        lengths = [-(-(end - start) // group_size) for start, end in zip(self._starts, ends, strict=False)]
        self._before: list[list[int]] = [[0] for _ in self._names]
        """Groups of each corpus before each section."""
        for section, groups in enumerate(lengths):
            for corpus, before in enumerate(self._before):
                before.append(self._count(corpus, section, groups))

    @property
    def num_shards(self) -> int:
        """Number of shards of all corpora."""
        return int(self._first_shard[-1])

    def locate(self, position: int) -> tuple[int, int]:
        """Returns shard number and row of the sample at `position`. Raises `ConfigError` if its corpus is not among `orders`."""
        section, group, within = self._place(position)
        name = self._members[section][int(self._block(section, group // BLOCK)[0][group % BLOCK])]
        if name not in self._names:
            raise ConfigError(f"data.mixture lacks {name}, which the run reads here: name it again")
        corpus = self._names.index(name)
        shard, row = self._orders[corpus].locate(self._count(corpus, section, group) * self._group_size + within)
        return self._first_shard[corpus] + shard, row

    def shards_ahead(self, corpus: int, position: int) -> Iterator[tuple[list[int], float]]:
        """Yields the shards of `corpus`, under its own numbers, that come next, as `SampleOrder.shards_ahead`."""
        section, group, _ = self._place(position)
        return self._orders[corpus].shards_ahead(self._count(corpus, section, group) * self._group_size)

    def shares(self, start: int, end: int) -> dict[str, float]:
        """Returns the share of each corpus in the positions [`start`, `end`), in whole groups."""
        first, last = ([self._count(c, *self._place(p)[:2]) for c in range(len(self._names))] for p in (start, end))
        counts = [after - before for before, after in zip(first, last, strict=True)]
        return {name: count / max(1, sum(counts)) for name, count in zip(self._names, counts, strict=True)}

    def _place(self, position: int) -> tuple[int, int, int]:
        """Returns the section of `position`, and its group and its place in the group from the section's start on."""
        section = max(number for number, start in enumerate(self._starts) if start <= position)
        return section, *divmod(position - self._starts[section], self._group_size)

    def _count(self, corpus: int, section: int, group: int) -> int:
        """Returns how many groups of `corpus` come before a section's `group`."""
        before, members = self._before[corpus][section], self._members[section]
        if self._names[corpus] not in members:
            return before
        place = members.index(self._names[corpus])
        block, within = divmod(group, BLOCK)
        inside = int(self._block(section, block)[1][within, place]) if within else 0
        return before + block * self._quotas[section][place] + inside

    def _block(self, section: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _block(self._quotas[section], self._seed, self._starts[section], number)


@lru_cache(maxsize=8)
def _block(quotas: tuple[int, ...], seed: int, start: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the corpora of a block's groups, int64 (BLOCK,), and how many of each precede them, (BLOCK, len(quotas))."""
    order = randomness.permutation(BLOCK, randomness.mix(seed, start, number, randomness.MIXTURE))
    corpora = np.repeat(np.arange(len(quotas)), quotas)[order]
    chosen = corpora[:, None] == np.arange(len(quotas))
    return corpora, np.cumsum(chosen, axis=0) - chosen
