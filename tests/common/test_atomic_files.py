"""Files and folders that are whole or not there, whoever writes them at the same time and whatever goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.atomic_files import (
    atomic_file,
    atomic_path,
    check_target,
    scratch_path,
    write_file,
    write_json,
    write_output,
)
from albef_ds.common.errors import MachineError

WRITER = """
import sys
from pathlib import Path
from albef_ds.common.atomic_files import write_file
path, letter = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    write_file(path, letter * 100_000)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from albef_ds.common.atomic_files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half of the new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path, durable: bool) -> None:
    write_file(tmp_path / "file", "old", durable=durable)
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file", durable=durable) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    with pytest.raises(UnicodeEncodeError):
        write_file(tmp_path / "file", "\ud800", durable=durable)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"not": object()}, durable=durable)
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"
    write_json(tmp_path / "file", {"ä": 1}, durable=durable, ensure_ascii=False)
    assert (tmp_path / "file").read_bytes() == '{"ä": 1}\n'.encode()


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    (left,) = set(names(tmp_path)) - {"file"}
    assert left.startswith("file.") and left.endswith(".tmp")


def test_two_processes_at_once_never_mix_their_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], stdin=-1, stdout=-1, text=True) for letter in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    found = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            found.add(path.read_text())
    assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
    assert found <= {"a" * 100_000, "b" * 100_000} and found
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "folder") as room:
        room.mkdir()
        (room / "first").write_text("1")
        raise RuntimeError
    assert names(tmp_path) == []
    with atomic_path(tmp_path / "folder") as room:
        room.mkdir()
        (room / "first").write_text("1")
        assert names(tmp_path) == [room.name]
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["first"]
    with pytest.raises(OSError), atomic_path(tmp_path / "folder") as room:  # another process was first
        room.mkdir()
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["first"]


def test_scratch_goes_unless_it_was_renamed(tmp_path: Path) -> None:
    with scratch_path(tmp_path / "x") as first, scratch_path(tmp_path / "x") as second:
        assert first != second
        first.mkdir()
        second.write_text("kept")
        second.rename(tmp_path / "kept")
    assert names(tmp_path) == ["kept"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "file", "x")
        with atomic_path(tmp_path / "folder") as room:
            room.mkdir()
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder")] == [0o640, 0o750]


def test_an_output_that_cannot_be_written_is_the_users_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, problem in ((tmp_path, "is a folder"), (tmp_path / "file" / "page.html", "is not a writable folder")):
        for refuse in (check_target, lambda path: write_output(path, "x")):
            with pytest.raises(MachineError, match=problem) as caught:
                refuse(path)
            assert str(path) in str(caught.value)
    with pytest.raises(MachineError, match=r"n cannot be written \(File name too long\): give another file"):
        write_output(tmp_path / ("n" * 250), "x")  # with what the temporary name adds
    assert names(tmp_path) == ["file"]
    with pytest.raises(FileNotFoundError):  # what is not the user's own name raises as the disk does, and makes no folder
        write_file(tmp_path / "gone" / "file", "x")
    write_output(tmp_path / "new" / "page.json", json.dumps([1]))
    assert (tmp_path / "new" / "page.json").read_text() == "[1]"


def _as_nobody(target: Path, answer: Any) -> None:
    if os.geteuid() == 0:  # the superuser may write anywhere
        os.setuid(65534)
    try:
        write_output(target, "x")
    except MachineError as error:
        answer.send(str(error))
    else:
        answer.send("written")


def test_a_folder_without_permission_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_as_nobody, args=(Path(folder) / "page.html", theirs))
        process.start()
        message = ours.recv()
        process.join()
        assert "is not a writable folder" in message and folder in message
