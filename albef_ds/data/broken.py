"""Broken samples: the error for one, and the tally that stops a run with too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from albef_ds.common.errors import DataError

Reason = Literal[
    "undecodable picture",
    "too many pixels",
    "other bytes than written",
    "empty caption",
    "unreadable JSON",
    "tar without its end mark",
]

KEYS_KEPT = 20
"""Keys kept per shard and reason; all broken samples are counted."""
SEEN_BEFORE_JUDGING = 100
"""Number of samples after which the share of broken ones is checked."""


class BrokenSampleError(ValueError):
    """The sample cannot be used: the stream counts it and takes another. The error never leaves `albef_ds.data`."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason: Reason = reason


@dataclass(frozen=True)
class BrokenSample:
    """File and key of a broken sample, and the reason."""

    shard: str
    key: str
    reason: Reason


@dataclass
class BrokenTally:
    """One rank's counts. The run stops if the share of broken samples exceeds `limit`."""

    limit: float
    seen: int = 0
    counts: dict[str, Counter[Reason]] = field(default_factory=dict)
    keys: dict[tuple[str, Reason], list[str]] = field(default_factory=dict)

    @property
    def broken(self) -> int:
        """Number of broken samples so far."""
        return sum(sum(reasons.values()) for reasons in self.counts.values())

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Returns shard to reason to count, as plain data."""
        return {shard: {str(reason): count for reason, count in reasons.items()} for shard, reasons in self.counts.items()}

    def add(self, num_samples: int, broken: Iterable[BrokenSample]) -> None:
        """Counts a batch of `num_samples`, of which `broken` were replaced. Raises as `judge`."""
        self.seen += num_samples
        for sample in broken:
            self.counts.setdefault(sample.shard, Counter())[sample.reason] += 1
            keys = self.keys.setdefault((sample.shard, sample.reason), [])
            if len(keys) < KEYS_KEPT:
                keys.append(sample.key)
        if self.seen >= SEEN_BEFORE_JUDGING:
            self.judge()

    def judge(self) -> None:
        """Raises `DataError`, naming the worst shard, if the share of broken samples is above the limit."""
        if self.broken <= self.limit * self.seen:
            return
        shard, reasons = max(self.counts.items(), key=lambda item: (sum(item[1].values()), item[0]))
        reason, _ = reasons.most_common(1)[0]
        raise DataError(
            f"{self.broken} of {self.seen} samples are broken, above data.max_broken {self.limit}: most in {shard} "
            f"({sum(reasons.values())}, mainly {reason}, such as {self.keys[shard, reason][0]}); run `albef-data verify`, "
            "write the corpus again without them, or raise data.max_broken"
        )
