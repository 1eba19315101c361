"""What the names of logged numbers say: which are worth most, and which describe the evaluation instead of the model."""

from __future__ import annotations

from collections.abc import Iterable

_FIRST = ("loss", "loss_", "accuracy", "grad_norm", "learning_rate", "temperature", "_per_second", "utilisation", "_share")
"""Numbers of a step from the most worth to the least, by name, beginning or end; all others follow."""
_SIZES = ("num_", "k_test")


def by_worth(names: Iterable[str]) -> list[str]:
    """Returns the names of a step's numbers, those worth most first."""
    return sorted(names, key=lambda name: (_worth(name), name))


def _worth(name: str) -> int:
    if name == "loss":
        return 0
    places = [place for place, part in enumerate(_FIRST) if place and (name.startswith(part) or name.endswith(part))]
    return min(places, default=len(_FIRST))


def is_measured(name: str) -> bool:
    """True for a number that every step measures, however equal; False for one that may follow a schedule or be constant."""
    return _worth(name) < len(_FIRST) and name != "temperature"


def is_size(name: str) -> bool:
    """True for a number that describes the evaluation, such as `retrieval/num_images`."""
    return name.rpartition("/")[2].startswith(_SIZES)


def is_chance(name: str) -> bool:
    """True for what guessing would reach, such as `retrieval/i2t_r1_chance`."""
    return name.endswith("_chance")
