"""One line of the doctor's report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "mend"]
"""note: it runs like this, but slower or with less than it could. mend: it does not run, or not as asked for."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do; empty if nothing."""

    def __str__(self) -> str:
        return f"{self.state:<4}  {self.name}: {self.found}" + (f": {self.advice}" if self.advice else "")


Check = Callable[[], Iterator[Finding]]


def findings(checks: dict[str, Check]) -> Iterator[Finding]:
    """The findings of all `checks`, as they come. A check that breaks is a finding itself, and the rest are still made."""
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # whatever a driver or a file system raises, the others are still worth knowing
            reason = " ".join(str(error).split())[:200]
            yield Finding(name, "mend", f"the check ended with {type(error).__name__}", reason or "look at this part first")
