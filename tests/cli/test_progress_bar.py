"""Progress is shown on terminals until the work is done, and never in a file or a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.terminal import ROOT, run_on_terminal

PROGRAM = """
import time
from albef_ds.cli import progress_bar as bars
bars.DELAY = 0.05
show = bars.Bars()
for done in (1, 2, 3):
    time.sleep(0.15)
    show("images", done, 4)
show("images", 4, 4)
with bars.waiting("reading the model"):
    time.sleep(0.4)
with bars.waiting("too short to be seen"):
    pass
print("done")
"""


def test_a_terminal_sees_bars_and_waiting_and_is_left_clean() -> None:
    printed, text = run_on_terminal(PROGRAM, 120)
    assert printed == "done\n"
    assert "images" in text and "/4" in text and "reading the model ... 0 s" in text
    assert "too short" not in text and text.endswith("\r\x1b[K")


def test_a_pipe_gets_nothing() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


LOG = """
import time
from albef_ds.cli import progress_bar as bars
from albef_ds.common.progress import LogLines
LogLines.INTERVAL = 0.05
show = bars.Bars()
for done in (1, 2, 3, 4):
    show("images", 1000 * done, 4000)
    time.sleep(0.06)
with bars.counting("writing the model") as show:
    show("reading back", 1, 2)
"""


def test_a_log_gets_lines_with_the_time_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOG], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    assert lines and all(re.fullmatch(r"images: [234],000 of 4,000, \d s left", line) for line in lines), done.stderr
    assert len(lines) <= 3 and done.stdout == ""


def test_what_is_waited_for_gives_way_to_a_bar() -> None:
    program = (
        PROGRAM.partition("show =")[0]
        + """
with bars.counting("writing the model") as show:
    time.sleep(0.3)
    for done in (1, 2, 3):
        show("reading back", done, 4)
        time.sleep(0.15)
print("done")
"""
    )
    printed, text = run_on_terminal(program, 120)
    assert printed == "done\n"
    assert text.index("writing the model ... 0 s") < text.index("reading back") and text.rindex("writing") < text.index(
        "reading back"
    )
