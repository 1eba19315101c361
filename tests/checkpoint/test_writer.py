"""What threads write is read back before it counts, and no failure in a thread is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.checkpoint import writer
from albef_ds.checkpoint.tensor_files.hashed import Entry
from albef_ds.checkpoint.writer import Writer

TENSORS = {"w": torch.arange(1000.0)}


def _written(folder: Path) -> Writer:
    done = Writer(folder)
    for number in range(5):
        done.add(f"{number}.safetensors", TENSORS)
    done.add("state.json", "{}\n")
    done.close()
    done.join()
    return done


def test_every_file_is_written_with_its_checksum(tmp_path: Path) -> None:
    done = _written(tmp_path / "step")
    assert done.error is None and not done.busy
    assert sorted(done.entries) == sorted(path.name for path in (tmp_path / "step").iterdir())
    assert len({entry.checksum for entry in done.entries.values()}) == 2


def test_a_byte_that_reaches_the_disk_otherwise_is_an_error_and_ends_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path, tensors: Any) -> Entry:
        entry = real(path, tensors)
        content = bytearray(path.read_bytes())
        content[-7] ^= 1
        path.write_bytes(bytes(content))
        return entry

    real = writer.write_safetensors
    monkeypatch.setattr(writer, "write_safetensors", damaged)
    done = _written(tmp_path / "step")
    assert "read back differs" in str(done.error) and not done.entries.keys() - {"state.json"}


def test_a_failure_that_is_not_the_disks_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, tensors: Any) -> Entry:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(writer, "write_safetensors", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        _written(tmp_path / "step")
