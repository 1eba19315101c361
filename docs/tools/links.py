"""Links between Markdown files of the repository: finding them, and the anchors they may name.

Used by the site, which rewrites links that leave docs/, and by the test that follows every one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

LINK = re.compile(r"(!?\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\])\(([^)\s]+)\)")
"""A link or picture: its text with brackets, its target."""

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def targets(markdown: str) -> Iterator[str]:
    """Targets of the links outside code, web addresses left out."""
    for _, target in LINK.findall(_FENCE.sub("", markdown)):
        if not is_web(target):
            yield target


def is_web(target: str) -> bool:
    """Whether a link leaves the repository."""
    return re.match(r"[a-z]+:", target) is not None


def resolve(page: str, target: str) -> tuple[str, str]:
    """The path from the repository's root that `target` means in the file `page`, and the anchor or an empty text."""
    path, _, anchor = target.partition("#")
    return (posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page), anchor


def anchors(markdown: str) -> set[str]:
    """Anchors of a page's headings, as both GitHub and the site make them of plain ASCII headings."""
    text = re.sub(r"^(```|~~~).*?^\1\s*?$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+?)\s*#*$", text, flags=re.MULTILINE)}


def slug(heading: str) -> str:
    """The anchor of one heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def text_of(root: Path, path: str) -> str:
    """The file at `path` from the repository's root."""
    return (root / path).read_text(encoding="utf-8")
