"""Progress is for terminals: seen there, gone when its work is done, and never in a file or a pipe."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import time
from albef_ds.cli import bars
bars.DELAY = 0.05
show = bars.Bars()
for done in (1, 2, 3):
    time.sleep(0.15)
    show("pictures", done, 4)
show("pictures", 4, 4)
with bars.waiting("reading the model"):
    time.sleep(0.4)
with bars.waiting("too short to be seen"):
    pass
print("done")
"""


def test_a_terminal_sees_bars_and_waiting_and_is_left_clean() -> None:
    controller, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                block = os.read(controller, 4096)
            except OSError:  # Linux's way to say that the other end has closed
                break
            shown += block
        assert process.stdout is not None and process.stdout.read() == b"done\n"
    os.close(controller)
    text = shown.decode()
    assert process.returncode == 0
    assert "pictures" in text and "/4" in text and "reading the model ... 0 s" in text
    assert "too short" not in text and text.endswith("\r\x1b[K")


def test_a_pipe_gets_nothing() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
