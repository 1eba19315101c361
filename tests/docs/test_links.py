"""Every link and anchor of the pages leads somewhere, and every page can be reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.tools.links import anchors, resolve, slug, targets, text_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


def broken(page: str, markdown: str) -> list[str]:
    """Targets in `page` that are not there."""
    found = []
    for target in targets(markdown):
        path, anchor = resolve(page, target)
        if not (ROOT / path).is_file() or (anchor and anchor not in anchors(text_of(ROOT, path))):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_an_anchor_in_it(page: str) -> None:
    assert broken(page, text_of(ROOT, page)) == []


def test_what_leads_nowhere_is_found() -> None:
    page = "see [a](nowhere.md), [b](../README.md#no-such-heading), [c](../README.md#measured), `[d](code.md)`, [e](https://example.org)"
    assert broken("docs/index.md", page) == ["nowhere.md", "../README.md#no-such-heading"]


def test_anchors_are_those_of_the_site() -> None:
    from markdown.extensions.toc import slugify

    headings = [heading for page in PAGES for heading in re.findall(r"^#+ (.+)$", text_of(ROOT, page), flags=re.MULTILINE)]
    plain = [heading for heading in headings if re.fullmatch(r"[\w ,.:'()-]+", heading)]
    assert len(plain) > 80 and [slug(heading) for heading in plain] == [slugify(heading, "-") for heading in plain]


def test_the_site_has_every_page_and_the_first_page_leads_to_it() -> None:
    names = {path.name for path in (ROOT / "docs").glob("*.md")}
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(names)
    assert {target.partition("#")[0] for target in targets(text_of(ROOT, "docs/index.md"))} >= names - {"index.md"}
