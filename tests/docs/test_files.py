"""docs/files.md has a phrase for every file under version control."""

from __future__ import annotations

import pytest

from docs.tools.files import NAME, PAGE, first_sentence, page_text, phrase, tracked
from docs.tools.generated import replaced


def test_the_page_is_what_the_tree_holds() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == replaced(page, NAME, page_text(tracked())), "docs/files.md is stale: run `make docs`"


def test_a_file_without_a_phrase_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.tools.files.phrase", lambda path: None)
    with pytest.raises(ValueError, match=r"no phrase for albef_ds/new\.py"):
        page_text(["albef_ds/new.py"])


def test_phrases() -> None:
    assert first_sentence("One thing: and\nthe rest. More (a.b) follows.\n\nBody.") == "One thing: and the rest"
    assert first_sentence("Reads `x.py`; writes nothing.") == "Reads `x.py`"
    assert phrase("albef_ds/models/feature_queue.py") and phrase("docs/slurm.md") and phrase("Makefile")
    assert phrase("tests/__init__.py") == "" and first_sentence(None) is None
