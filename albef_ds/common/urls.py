"""URLs of object stores and web servers, as settings and options name them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit


def is_url(text: str) -> bool:
    """Returns whether `text` is a URL and not a local path."""
    return "://" in text


def is_object_store(text: str) -> bool:
    """Returns whether `text` is the URL of a bucket or container, or of a folder in one, of a kind that can be written to."""
    parts = urlsplit(text)
    return parts.scheme in ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss") and bool(parts.netloc)


def is_collapsed_url(path: Path) -> bool:
    """Returns whether `path` was made from a URL, whose slashes it has lost."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+:/[^/]", str(path)))


def is_corpus_url(text: str) -> bool:
    """Returns whether `text` is the URL of a corpus, and not of tars."""
    return is_url(text) and ".tar" not in text and "{" not in text and not text.startswith("pipe:")


def has_credentials(url: str) -> bool:
    """Returns whether `url` has a user or password before its host, or a query, where signatures and tokens are."""
    parts = urlsplit(url)
    return "@" in parts.netloc or bool(parts.query)


def without_credentials(url: str) -> str:
    """Returns `url` without user, password and query, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
