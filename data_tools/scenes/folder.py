"""Writes a folder of scene images and annotation files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from albef_ds.common.atomic_files import write_file, write_json
from albef_ds.common.errors import MachineError
from data_tools.scenes.render import RenderedScene

VOCABULARY = "vocab.txt"
"""Written first, so that an unfinished folder of scenes is distinguishable from a folder of other files."""


class SceneFolder:
    """Writes images below `images/` and JSON files beside it. Raises MachineError if `path` is unsuitable or cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir() and any(path.iterdir()) and not (path / VOCABULARY).exists():
            raise MachineError(f"{path} holds other files than scenes: give a new folder")
        try:
            (path / "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"{path} cannot be made ({error.strerror}): give another folder") from None

    def image(self, name: str, scene: RenderedScene, extension: Literal["png", "jpg"] = "png") -> str:
        """Writes an image; returns its path below `images/`, as annotations name it. COCO's and Flickr's names end in jpg."""
        target = self.path / "images" / f"{name}.{extension}"
        target.parent.mkdir(parents=True, exist_ok=True)
        # scenes.json, written last, marks a complete folder: an image needs no temporary name.
        if extension == "png":
            target.write_bytes(scene.png)
        else:
            Image.open(io.BytesIO(scene.png)).save(target, "JPEG", quality=95, subsampling=0)
        return f"{name}.{extension}"

    def json(self, name: str, content: Any) -> None:
        """Writes `content` as JSON, atomically."""
        write_json(self.path / name, content)

    def json_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Writes one JSON object per line."""
        self.lines(name, [json.dumps(row) for row in rows])

    def lines(self, name: str, rows: list[str]) -> None:
        """Writes lines of text, atomically."""
        write_file(self.path / name, "".join(f"{row}\n" for row in rows))
