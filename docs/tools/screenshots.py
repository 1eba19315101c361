"""Takes the screenshots of docs/images again: `python -m docs.tools.screenshots [MODEL]`.

The default is the model of `make demo`. Serves the held-out images of the emoji corpus with it and visits the page in Chromium,
and takes those of `run_screenshots.py`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from albef_ds.cli.main import main as albef_ds
from docs.tools import run_screenshots
from docs.tools.browser import Browser, Page, chromium
from docs.tools.emoji_images import emoji
from docs.tools.generated import ROOT

IMAGES = ROOT / "docs" / "images"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def emoji_photos(folder: Path) -> None:
    """Writes the images into `folder`, each under its first caption."""
    for name, described, content in emoji():
        text = "".join(mark if mark in _LETTERS else "-" for mark in str(described["captions"][0]).lower())[:40]
        (folder / f"{text}-{Path(name).stem[-3:]}.webp").write_bytes(content)


@contextlib.contextmanager
def served(model: Path, photos: Path) -> Iterator[str]:
    """Yields the address of `albef-ds serve`."""
    command = [sys.executable, "-m", "albef_ds.cli.main", "serve", "--model", str(model), "--images", str(photos), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            if "http://" not in line:
                raise SystemExit("screenshots: the server did not start: run make demo first, or give a model")
            yield line.split()[1]
        finally:
            process.terminate()


def search(page: Page, address: str, words: str) -> None:
    """Opens the page and searches."""
    page.open(address)
    page.wait("document.getElementById('state').textContent.match(/^[1-9]\\d* images$/)")
    page.type(words)
    page.press("Enter")
    page.wait("document.querySelectorAll('#hits li').length > 0")
    seen = "[...document.querySelectorAll('#hits img')].filter((image) => image.getBoundingClientRect().top < innerHeight)"
    page.wait(f"{seen}.every((image) => image.naturalWidth)")


def take(browser: Browser, address: str) -> None:
    """Writes the images of docs/serving.md."""
    for name, width, height, dark in (("serve_wide", 1440, 860, False), ("serve_narrow", 360, 740, True)):
        with browser.page(width, height, dark=dark) as page:
            search(page, address, "a red apple")
            page.value("document.activeElement.blur()")
            _keep(page, name)
            if width < 1000:
                continue
            page.value("document.querySelector('#hits button').click()")
            page.value("document.querySelector('#ground button').click()")
            page.wait(
                "document.querySelectorAll('#maps li').length > 0 && document.getElementById('large').src.startsWith('data')"
            )
            page.wait("document.getElementById('large').complete")
            _keep(page, "serve_ground")


def _keep(page: Page, name: str) -> None:
    """Writes a PNG of 128 colours, a third of the size."""
    path = IMAGES / f"{name}.png"
    page.screenshot(path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


def emoji_groups(folder: Path) -> None:
    """Writes the images into a subfolder for each of Unicode's groups."""
    for name, described, content in emoji():
        place = folder / str(described["group"])
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(content)


def confusion(model: Path) -> None:
    """Draws the confusion of docs/evaluation.md."""
    with tempfile.TemporaryDirectory() as folder:
        emoji_groups(Path(folder))
        command = ["classify", "--model", str(model), "--evaluate", folder, "--template", "{}"]
        if albef_ds([*command, "--output", str(IMAGES / "classify.png")]):
            raise SystemExit("screenshots: albef-ds classify failed")


def main() -> None:
    """Takes all screenshots."""
    program = chromium()
    if program is None:
        raise SystemExit("screenshots: Chromium is not installed: run make browser")
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "demo"
    with tempfile.TemporaryDirectory() as folder, Browser(program) as browser:
        emoji_photos(Path(folder))
        with served(model, Path(folder)) as address:
            take(browser, address)
        with tempfile.TemporaryDirectory() as runs:
            run_screenshots.take(browser, model, Path(runs), _keep)
    confusion(model)


if __name__ == "__main__":
    main()
