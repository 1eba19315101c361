"""Reads the held-out images of the emoji corpus, for screenshots."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_ds.cli.demo.corpus import emoji_corpus


def emoji() -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Yields name, description and bytes of each test image of the emoji corpus."""
    with tempfile.TemporaryDirectory() as cache:
        for archive in sorted((emoji_corpus(Path(cache)) / "test").glob("*.tar")):
            with tarfile.open(archive) as members:
                found = {member.name: file.read() for member in members if (file := members.extractfile(member))}
            for name, content in found.items():
                if name.endswith(".webp"):
                    yield name, json.loads(found[f"{Path(name).stem}.json"]), content
