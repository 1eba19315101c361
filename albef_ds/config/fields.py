"""Building blocks of the schema: documented fields, and checks whose errors name the setting."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from albef_ds.common.errors import ConfigError


def setting(default: Any, doc: str, *, unit: str = "", paper: str = "") -> Any:
    """Returns a dataclass field with its documentation: `doc`, the `unit` of its value and the `paper`'s value."""
    return field(default=default, metadata={"doc": doc, "unit": unit, "paper": paper})


def require(condition: bool, name: str, problem: str, fix: str) -> None:
    """Raises a `ConfigError` that names the setting, the problem and the fix unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name} {problem}: {fix}")


def positive(section: str, config: Any, *names: str) -> None:
    """Raises `ConfigError` if a named field of `config` is not above 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name}", f"is {value}", "give a number above 0")


def not_negative(section: str, config: Any, *names: str) -> None:
    """Raises `ConfigError` if a named field of `config` is below 0."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{section}.{name}", f"is {value}", "give 0 or more")


def share(section: str, config: Any, *names: str) -> None:
    """Raises `ConfigError` if a named field of `config` is outside [0, 1]."""
    for name in names:
        value = getattr(config, name)
        require(0.0 <= value <= 1.0, f"{section}.{name}", f"is {value}", "give a number from 0 to 1")


def step_range(name: str, text: str) -> tuple[int, int]:
    """Returns (A, B) of `A:B`, steps from 1. Raises `ConfigError`, which names the setting, for anything else."""
    parts = text.split(":")
    good = len(parts) == 2 and all(part.isascii() and part.isdecimal() for part in parts)
    require(good, name, f"is {text}", "give first:last step, such as 10:12")
    first, last = map(int, parts)
    require(1 <= first <= last, name, f"is {text}", "give steps from 1, the first not after the last")
    return first, last
