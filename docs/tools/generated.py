"""Text between two marks of a Markdown file that a program writes, the rest by hand."""

from __future__ import annotations

from pathlib import Path

from albef_ds.common.atomic_files import write_file

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""


def marks(name: str) -> tuple[str, str]:
    """The lines that stand around generated text `name`."""
    return f"<!-- {name}: begin (made by `make docs`) -->", f"<!-- {name}: end -->"


def replaced(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of `name`. Raises `ValueError` where they are missing."""
    begin, end = marks(name)
    if begin not in page or end not in page:
        raise ValueError(f"the page lacks the lines {begin} and {end}: put them where the text belongs")
    before, after = page.partition(begin)[0], page.rpartition(end)[2]
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def rewrite(path: Path, name: str, text: str) -> None:
    """Put `text` into the file at `path`, whole or not at all."""
    write_file(path, replaced(path.read_text(encoding="utf-8"), name, text))
