"""A folder of images, each beside a `.txt` (one caption a line) or `.json` (`caption` or `captions`) of the same name.

Endings may be in any case. Linked folders are walked after the folder's own, each folder once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import PICTURE_ENDINGS
from data_tools.files.storage import is_url, open_source
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list, text_of

# fmt: off
OTHER_PICTURES = (
    ".svg", ".eps", ".ps", ".pdf", ".psd", ".ai", ".wmf", ".emf", ".exr", ".hdr", ".xcf", ".dng", ".cr2", ".cr3", ".nef", ".arw",
    ".raw",
)
# fmt: on
"""Endings of drawings and of cameras' raw files, which are counted and not listed."""
_TEXTS = (".txt", ".json")


def parts(spec: SourceSpec) -> list[str]:
    """The folder itself. Raises DataError if it is not a local folder."""
    if is_url(spec.path) or not os.path.isdir(spec.path):
        raise DataError(f"{spec.path} of source {spec.name} is not a local folder: check it (remote data: use tars or a table)")
    return [spec.path]


def walk_folders(root: str, problems: Problems) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder below `root` with its sorted files, in a fixed order.

    Counts unreadable folders and links to what was walked before.
    """
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        start = waiting.pop(0)
        if os.path.realpath(start) in seen:
            problems.add("linked folder that was walked before", start)
            continue
        for folder, folders, files in os.walk(start, onerror=lambda e: problems.add("unreadable folder", str(e.filename))):
            seen.add(os.path.realpath(folder))
            waiting += sorted(path for name in folders if os.path.islink(path := os.path.join(folder, name)))
            folders[:] = sorted(name for name in folders if not os.path.islink(os.path.join(folder, name)))
            yield folder, sorted(files)


def walk_images(root: str, problems: Problems) -> Iterator[str]:
    """Yields the paths of the images below `root`, relative to it, as `walk_folders`; counts other kinds of pictures."""
    for folder, files in walk_folders(root, problems):
        for name in _images(folder, files, problems):
            yield os.path.relpath(os.path.join(folder, name), root)


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per image below the folder. Counts texts without an image."""
    for folder, files in walk_folders(part, problems):
        # A file beside the image is found by its name without the ending; the ending's case does not matter.
        texts = {
            (stem, ending.lower()): name
            for name in files
            for stem, ending in [os.path.splitext(name)]
            if ending.lower() in _TEXTS
        }
        used = set()
        for name in _images(folder, files, problems):
            path, stem = os.path.join(folder, name), os.path.splitext(name)[0]
            beside = {ending: os.path.join(folder, texts[stem, ending]) for ending in _TEXTS if (stem, ending) in texts}
            used.add(stem)
            captions = _captions(beside, problems)
            yield Record(os.path.relpath(path, part), path, -1, -1, captions, "", "" if captions else NO_CAPTION)
        for (stem, ending), name in texts.items():
            if stem not in used and ending == ".txt":
                problems.add("text without a picture", os.path.join(folder, name))


def _images(folder: str, files: list[str], problems: Problems) -> Iterator[str]:
    for name in files:
        ending = os.path.splitext(name)[1].lower()
        if name.startswith("._"):
            problems.add("macOS metadata (._ file)", os.path.join(folder, name))
        elif ending in PICTURE_ENDINGS:
            yield name
        elif ending in OTHER_PICTURES:
            problems.add(f"file of another kind of picture ({ending})", os.path.join(folder, name))


def _captions(beside: dict[str, str], problems: Problems) -> list[str]:
    path = beside.get(".txt", beside.get(".json", ""))
    if len(beside) == 2:
        problems.add("JSON beside a text, which alone is read", beside[".json"])
    if not path:
        return []
    try:
        with open_source(path) as file:
            text = text_of(file.read(), problems, path)
        if ".txt" in beside:
            return caption_list(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        raw = json.loads(text)
        if isinstance(raw, dict):
            return caption_list(raw.get("captions", raw.get("caption")))
        problems.add("unreadable sidecar", f"{path}: not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        problems.add("unreadable sidecar", f"{path}: {error}")
    return []
