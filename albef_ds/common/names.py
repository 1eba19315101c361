"""Names that users give to files beside a corpus."""

from __future__ import annotations


def is_file_name(name: str) -> bool:
    """Returns whether `name` can be that of a file: printable, no slash, and more than dots and spaces."""
    return name.isprintable() and "/" not in name and bool(name.strip(". "))
