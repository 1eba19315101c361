"""The table of settings is that of the code, and putting it into a page changes nothing else there."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.tools.generated import marks, replaced, rewrite
from docs.tools.settings import NAME, PAGE, markdown_table


def test_the_table_in_the_documentation_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == replaced(page, NAME, markdown_table()), "docs/configuration.md is behind the schema: run `make docs`"


def test_updating_replaces_the_text_and_nothing_else(tmp_path: Path) -> None:
    page, (begin, end) = tmp_path / "page.md", marks("part")
    page.write_text(f"above\n{begin}\nold\n{end}\nbelow\n", encoding="utf-8")
    rewrite(page, "part", "new\n")
    assert page.read_text(encoding="utf-8") == f"above\n{begin}\n\nnew\n\n{end}\nbelow\n"
    with pytest.raises(ValueError, match="lacks the lines"):
        replaced("no marks", "part", "new")
