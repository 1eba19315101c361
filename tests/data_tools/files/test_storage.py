"""Files and URLs are read, or one line says why not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from albef_ds.common.errors import ConfigError, DataError, MachineError
from data_tools.files.storage import ByteReader, list_files, load_json, open_source


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_an_error_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = "/dev/zero" if kind == "device" else str(tmp_path / "x")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    for read in (ByteReader().read, lambda path: ByteReader().read(path, 0, 1), open_source):
        with pytest.raises(OSError):
            read(path)


def test_a_url_whose_package_is_not_installed_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    for use in (open_source, ByteReader().read, lambda path: list_files(path, (".tar",))):
        with pytest.raises(MachineError, match="gcsfs"):
            use("gs://bucket/x.tar")


def test_a_kind_of_url_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(ConfigError, match="fsspec supports") as caught:
        open_source("s4://bucket/x.tar")
    assert "\n" not in str(caught.value)


def test_errors_of_a_protocol_are_errors_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.implementations.memory

    def fail(self: object, *args: object, **settings: object) -> bytes:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", fail)
    with pytest.raises(OSError, match="RuntimeError: no credentials"):
        ByteReader().read("memory://x/y.jpg")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"1" * 5000, b"\xff", b"{"])
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError, match=r"a\.json") as caught:
        load_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
