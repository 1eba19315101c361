"""A finding of the doctor, one line of its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "mend"]
"""note: it works, but slower or with fewer features than possible. mend: it does not work, or not as requested."""


@dataclass(frozen=True)
class Finding:
    """Result of a check."""

    name: str
    state: Severity
    found: str
    advice: str = ""
    """The fix; empty if none is needed."""

    def __str__(self) -> str:
        return f"{self.state:<4}  {self.name}: {self.found}" + (f": {self.advice}" if self.advice else "")


Check = Callable[[], Iterator[Finding]]


def findings(checks: dict[str, Check]) -> Iterator[Finding]:
    """Yields the findings of all `checks` as they come. A check that raises becomes a finding, and the others still run."""
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a driver or a file system may raise anything
            reason = " ".join(str(error).split())[:200]
            yield Finding(name, "mend", f"the check ended with {type(error).__name__}", reason or "fix this part first")
