"""Replaces the generated text between two marks of a Markdown file; the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

from albef_ds.common.atomic_files import write_file

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""


def marks(name: str) -> tuple[str, str]:
    """Returns the lines before and after the generated text `name`."""
    return f"<!-- {name}: begin (made by `make docs`) -->", f"<!-- {name}: end -->"


def replaced(page: str, name: str, text: str) -> str:
    """Returns `page` with `text` between the marks of `name`. Raises `ValueError` if they are missing."""
    begin, end = marks(name)
    if begin not in page or end not in page:
        raise ValueError(f"the page lacks the lines {begin} and {end}: add them where the text belongs")
    before, after = page.partition(begin)[0], page.rpartition(end)[2]
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def rewrite(path: Path, name: str, text: str) -> None:
    """Writes `text` between the marks of the file at `path`, atomically."""
    write_file(path, replaced(path.read_text(encoding="utf-8"), name, text))
