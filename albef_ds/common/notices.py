"""What a user should know although nothing is wrong: Python warnings, which the commands print as one line each."""

from __future__ import annotations

import warnings


class Notice(UserWarning):
    """A line for the user. Python shows equal ones of one place once."""


def notice(text: str) -> None:
    """Shows `text` once: as a Python warning, or as a line on standard error in a command."""
    warnings.warn(text, Notice, stacklevel=2)
