"""A program on a terminal of its own: what a person sees of it."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
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


def converse(command: Sequence[str], turns: Sequence[tuple[str, str]], folder: Path, seconds: float = 60.0) -> list[str]:
    """Type into a program in `folder`; what it answered at each of `turns`, pairs of what is typed and what is awaited then."""
    controller, terminal = pty.openpty()
    answers = []
    with subprocess.Popen(
        command, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as process:
        os.close(terminal)
        try:
            for typed, awaited in turns:
                os.write(controller, typed.encode())
                answer, end = b"", time.monotonic() + seconds
                while awaited.encode() not in answer.replace(b"\a", b""):
                    assert select.select([controller], [], [], max(0.0, end - time.monotonic()))[0], f"{awaited} in {answer!r}"
                    answer += os.read(controller, 4096)
                answers.append(answer.decode())
        finally:
            process.kill()
    os.close(controller)
    return answers
