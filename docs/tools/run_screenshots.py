"""Takes the screenshots of pages about runs: failed queries, a comparison, the list of runs, TensorBoard.

`docs/tools/screenshots.py` calls it. Trains two tiny runs, and scores the model of `make demo` on the held-out emoji.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.common.html import document
from albef_ds.common.processes import free_port
from docs.tools.browser import Browser, Page
from docs.tools.emoji_images import emoji
from docs.tools.generated import ROOT

Keep = Callable[[Page, str], None]
_TERMINAL = """
body { margin: 0; padding: 1.5rem; max-width: none; background: #16191d; }
pre { color: #e6e8ea; font: 15px/1.5 monospace; margin: 0; }
"""


def take(browser: Browser, model: Path, folder: Path, keep: Keep) -> None:
    """Takes all of them, with files in the empty `folder`."""
    failures(browser, model, folder, keep)
    corpus = emoji_corpus(folder / "corpus") / "test"
    runs = [folder / "runs" / name for name in ("first", "slower")]
    for run, rate in zip(runs, ("3e-4", "1e-4"), strict=True):
        settings = [
            "train.max_steps=60",
            "train.log_every=2",
            f"optim.learning_rate={rate}",
            f"output={run}",
            f"data.shards={corpus}",
        ]
        albef_ds("train", "--recipe", "debug", *settings)
    albef_ds("report", *map(str, runs), "--output", str(folder / "comparison.html"))
    _page(browser, folder / "comparison.html", 1200, 900, "comparison", keep)
    listed = f"$ albef-ds runs --watch\n{albef_ds('runs', place=folder)}"
    (folder / "runs.html").write_text(document("runs", [f"<pre>{escape(listed)}</pre>"], _TERMINAL), encoding="utf-8")
    _page(browser, folder / "runs.html", 960, 140, "runs", keep)
    with tensorboard(folder / "runs") as address, browser.page(1440, 860) as page:
        page.open(f"{address}?tagFilter=loss#timeseries")
        page.wait("document.body.innerText.length > 0")
        time.sleep(8)  # its charts are drawn inside closed elements, which cannot be asked
        keep(page, "tensorboard")


def failures(browser: Browser, model: Path, folder: Path, keep: Keep) -> None:
    """Scores the held-out emoji and shows the page of failed queries."""
    photos, records = folder / "photos", []
    photos.mkdir()
    for name, described, content in emoji():
        (photos / name).write_bytes(content)
        records.append({"image": name, "caption": described["captions"][:1]})
    (folder / "emoji.json").write_text(json.dumps(records), encoding="utf-8")
    settings = [f"data.test_annotations={folder / 'emoji.json'}", f"data.image_root={photos}"]
    albef_ds("evaluate", str(model), "--output", str(folder), *settings)
    _page(browser, folder / "failures_emoji.html", 1200, 900, "failures", keep)


def albef_ds(*arguments: str, place: Path = ROOT) -> str:
    """Runs the program in `place` and returns what it prints. Raises `SystemExit` if it fails."""
    command = [sys.executable, "-m", "albef_ds.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise SystemExit(f"screenshots: albef-ds {arguments[0]} failed: {done.stderr[-500:]}")
    return done.stdout


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Yields the address of TensorBoard for the runs in `folder`."""
    address = f"http://127.0.0.1:{(port := free_port())}/"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port), "--load_fast=false"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{address}data/runs") as answer:
                    if len(json.load(answer)) > 1:
                        break
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def _page(browser: Browser, file: Path, width: int, height: int, name: str, keep: Keep) -> None:
    with browser.page(width, height) as page:
        page.open(file.as_uri())
        page.wait("[...document.images].every((image) => image.complete)")
        keep(page, name)
