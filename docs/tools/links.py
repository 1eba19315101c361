"""Finds the links and anchors of the repository's Markdown files.

The site uses them to rewrite links that leave docs/, a test to check every link.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

LINK = re.compile(r"(!?\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\])\(([^)\s]+)\)")
"""A link or image: its text with brackets, its target."""

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def targets(markdown: str) -> Iterator[str]:
    """Yields the targets of the links outside code, without web addresses."""
    for _, target in LINK.findall(_FENCE.sub("", markdown)):
        if not is_web(target):
            yield target


def is_web(target: str) -> bool:
    """Returns whether a link leaves the repository."""
    return re.match(r"[a-z]+:", target) is not None


def resolve(page: str, target: str) -> tuple[str, str]:
    """Returns the path from the repository's root of `target` in the file `page`, and the anchor or an empty text."""
    path, _, anchor = target.partition("#")
    return (posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page), anchor


def anchors(markdown: str) -> set[str]:
    """Returns the anchors of a page's headings, as both GitHub and the site make them from plain ASCII headings."""
    text = re.sub(r"^(```|~~~).*?^\1\s*?$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+?)\s*#*$", text, flags=re.MULTILINE)}


def slug(heading: str) -> str:
    """Returns the anchor of one heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def text_of(root: Path, path: str) -> str:
    """Returns the text of the file at `path` from the repository's root."""
    return (root / path).read_text(encoding="utf-8")
