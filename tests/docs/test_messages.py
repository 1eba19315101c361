"""docs/messages.md has every message of the source, and none that is no longer there."""

from __future__ import annotations

import pytest

from docs.tools.generated import replaced
from docs.tools.messages import NAME, PAGE, PASSED_ON, ROOT, collect, in_python, in_shell, page_text, subject_of


def test_the_page_is_what_the_source_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == replaced(page, NAME, page_text(collect())), "docs/messages.md is stale: run `make docs`"


def test_messages_of_every_kind_are_found() -> None:
    texts = [message.text for message in collect()]
    assert len(texts) > 350
    for known in (
        "there is no recipe {name}: {hint}",
        "{section}.{name} is {value}: give a number above 0",
        "{what}: all ranks have reached it, so a collective or the network hangs",
        "scontrol requeue was refused: the site does not allow it, submit the job again to continue",
        "make: $(PYTHON) -m venv failed: install its venv module (on Debian: apt install python3-venv)",
    ):
        assert known in texts


def test_a_message_from_elsewhere_needs_its_file_named() -> None:
    source = "raise ConfigError(text)"
    assert list(in_python(source, next(iter(PASSED_ON)))) == []
    with pytest.raises(ValueError, match=r"new\.py line 1"):
        list(in_python(source, "new.py"))


def test_what_is_filled_in_has_a_name() -> None:
    assert list(in_python('ConfigError(f"{len(a)} of {self._limit}, {b[0]}" " more")', "x.py")) == [
        "{number} of {limit}, {...} more"
    ]
    assert in_shell('    [ -f x ] || fail "$x is missing: mend it"\n  say "stop: no"\n  say "job"') == [
        "$x is missing: mend it",
        "stop: no",
    ]


def test_files_that_are_named_are_there_and_those_without_a_subject_are_refused() -> None:
    assert all((ROOT / path).is_file() for path in PASSED_ON)
    with pytest.raises(ValueError, match="no subject"):
        subject_of("elsewhere/new.py")
