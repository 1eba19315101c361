"""The images of the emoji corpus: four drawing styles, each giving WebP bytes by concept code."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from albef_ds.common.errors import DataError, MachineError
from data_tools.emoji.families import normal_code
from data_tools.emoji.sources import FLUENT_3D, FLUENT_FLAT, NOTO, TWEMOJI

SIZE = 72  # pixels: leaves room for random crops at 64 and keeps all shards near 10 MB
QUALITY = 90


@dataclass(frozen=True)
class Style:
    """A set of drawings: its name, and a function per concept code that draws the image."""

    name: str
    images: Mapping[str, Callable[[], Image.Image]]

    def webp(self, code: str) -> bytes:
        """WebP bytes of the drawing of `code` on white, SIZE x SIZE pixels."""
        buffer = io.BytesIO()
        self.images[code]().save(buffer, "WEBP", quality=QUALITY, method=6)
        return buffer.getvalue()


def read_styles(packages: Mapping[str, Path]) -> list[Style]:
    """All styles, first the one used for evaluation."""
    return [
        Style("noto", dict(_icons(packages[NOTO.name]))),
        Style("twemoji", dict(_icons(packages[TWEMOJI.name]))),
        Style("fluent-flat", dict(_icons(packages[FLUENT_FLAT.name]))),
        Style("fluent-3d", dict(_files(packages[FLUENT_3D.name] / "assets"))),
    ]


def _icons(package: Path) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """The drawings of an Iconify package: icons.json has the SVG bodies, chars.json maps code points to names."""
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    names = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    for code, name in names.items():
        yield normal_code(code), partial(_draw, icons, name)


def _draw(icons: dict[str, Any], name: str) -> Image.Image:
    return render_svg(icon_svg(icons, name))


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """The SVG of icon `name`, which may be an alias that mirrors another."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None and set(alias) - {"parent", "hFlip"}:
        raise DataError(f"icon {name} is an alias with {sorted(alias)}: add these fields to icon_svg")
    icon = icons["icons"][name if alias is None else alias["parent"]]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if alias is not None and alias.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}">{body}</svg>'


def render_svg(svg: str) -> Image.Image:
    """`svg` drawn on white, RGB, SIZE x SIZE pixels. Raises MachineError if the renderer is not installed."""
    try:
        import resvg_py  # optional package
    except ImportError:
        raise MachineError("resvg-py is not installed: pip install resvg-py") from None
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True)
    return _fit(Image.open(io.BytesIO(png)))


def _files(folder: Path) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """The drawings of a folder with one WebP per code."""
    for path in sorted(folder.glob("*.webp")):
        yield normal_code(path.stem), partial(_open, path)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return _fit(image)


def _fit(image: Image.Image) -> Image.Image:
    """`image` on white, centred in a square of SIZE pixels."""
    image = image.convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    rgb = square.convert("RGB")
    return rgb if side == SIZE else rgb.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
