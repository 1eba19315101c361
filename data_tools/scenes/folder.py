"""A folder of scene pictures and annotation files being written; every file under a temporary name, then renamed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from albef_ds.common.atomic_files import write_file, write_json
from albef_ds.common.errors import MachineError
from data_tools.scenes.render import Picture

VOCABULARY = "vocab.txt"
"""Written first, so it tells an unfinished folder of scenes from a folder of other things."""


class SceneFolder:
    """Writes pictures below `images/` and JSON files beside it.

    Raises:
        MachineError: `path` holds other things, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir() and any(path.iterdir()) and not (path / VOCABULARY).exists():
            raise MachineError(f"{path} holds other files than scenes: give a new folder")
        try:
            (path / "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"{path} cannot be made ({error.strerror}): give another folder") from None

    def picture(self, name: str, picture: Picture, extension: Literal["png", "jpg"] = "png") -> str:
        """Write one picture; returns its path below `images/`, as annotations name it. COCO's and Flickr's names end in jpg."""
        target = self.path / "images" / f"{name}.{extension}"
        target.parent.mkdir(parents=True, exist_ok=True)
        # The mark of a whole folder is scenes.json, written last: a picture needs no temporary name.
        if extension == "png":
            target.write_bytes(picture.png)
        else:
            Image.open(io.BytesIO(picture.png)).save(target, "JPEG", quality=95, subsampling=0)
        return f"{name}.{extension}"

    def json(self, name: str, content: Any) -> None:
        """Write `content` as JSON."""
        write_json(self.path / name, content)

    def json_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write one JSON object per line."""
        self.lines(name, [json.dumps(row) for row in rows])

    def lines(self, name: str, rows: list[str]) -> None:
        """Write lines of text."""
        write_file(self.path / name, "".join(f"{row}\n" for row in rows))
