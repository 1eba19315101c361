"""A folder of images, each beside a `.txt` (one caption a line) or `.json` (`caption` or `captions`) of the same name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from albef_ds.common.errors import DataError
from data_tools.files.storage import is_url
from data_tools.readers.source import IMAGE_SUFFIXES, Problems, Record, SourceSpec, caption_list


def parts(spec: SourceSpec) -> list[str]:
    """The folder itself. Raises DataError if it is not a local folder."""
    if is_url(spec.path) or not os.path.isdir(spec.path):
        raise DataError(f"{spec.path} of source {spec.name} is not a local folder: check it (remote data: use tars or a table)")
    return [spec.path]


def walk_images(root: str, problems: Problems) -> Iterator[str]:
    """Yields the paths of the images below `root`, relative to it, in a fixed order; counts unreadable folders."""
    for folder, folders, files in os.walk(root, onerror=lambda e: problems.add("unreadable folder", str(e.filename))):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield os.path.relpath(os.path.join(folder, name), root)


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per image below the folder."""
    for listed in walk_images(part, problems):
        path = os.path.join(part, listed)
        captions = _captions(os.path.splitext(path)[0], problems)
        yield Record(listed, path, -1, -1, captions, "", "" if captions else "no caption")


def _captions(stem: str, problems: Problems) -> list[str]:
    try:
        if os.path.exists(stem + ".txt"):
            with open(stem + ".txt", encoding="utf-8", errors="replace") as file:
                return caption_list(file.read().splitlines())
        if os.path.exists(stem + ".json"):
            with open(stem + ".json", encoding="utf-8") as file:
                raw = json.load(file)
            return caption_list(raw.get("captions", raw.get("caption"))) if isinstance(raw, dict) else []
    except (OSError, ValueError) as error:
        problems.add("unreadable sidecar", f"{stem}: {error}")
    return []
