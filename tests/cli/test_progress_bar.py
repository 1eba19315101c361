"""Progress is shown on terminals until the work is done, and never in a file or a pipe."""

from __future__ import annotations

import os
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
