"""A program on a terminal of its own: what a person sees of it."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_on_terminal(program: str, columns: int) -> tuple[str, str]:
    """Standard output through a pipe, and what a terminal of `columns` shows as standard error, of a Python program.

    It has to end with exit code 0.
    """
    controller, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                block = os.read(controller, 4096)
            except OSError:  # Linux's way to say that the other end has closed
                break
            shown += block
        assert process.stdout is not None
        printed = process.stdout.read()
    os.close(controller)
    assert process.returncode == 0, shown.decode()
    return printed.decode(), shown.decode()
