"""The six walks of docs/architecture.md lead to code that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Six walks")[1].split("\n## ")[0]
WALKS = re.findall(r"^\*\*(.+?)\.\*\*(.*?)(?=^\*\*|\Z)", SECTION, re.MULTILINE | re.DOTALL)


def _file(path: str) -> Path:
    """A path of the page: below the root, albef_ds/ or data_tools/."""
    return next(found for folder in ("", "albef_ds", "data_tools") if (found := ROOT / folder / path).is_file())


def test_there_are_six() -> None:
    assert len(WALKS) == 6


@pytest.mark.parametrize(("title", "text"), WALKS, ids=[title for title, _ in WALKS])
def test_every_file_and_name_of_a_walk_is_there(title: str, text: str) -> None:
    words = re.findall(r"`([^`]+)`", text)
    paths = [word for word in words if "/" in word]
    assert len(paths) >= 3
    source = "\n".join(_file(path).read_text(encoding="utf-8") for path in paths)
    for name in (word for word in words if "/" not in word):
        assert re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", source), f"{title}: {name}"
