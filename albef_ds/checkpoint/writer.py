"""Writes the files of a checkpoint in threads, while later ones are still copied, and reads them back from the disk."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from albef_ds.checkpoint.complete import check_file
from albef_ds.checkpoint.tensor_files.hashed import Entry, write_text
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.checkpoint.tensor_files.safetensors_form import write_safetensors

_THREADS = 2
"""One file is read back while the next one is written."""


class Writer:
    """Writes to the new folder `folder`. The threads are daemons: a disk that hangs does not keep a process that ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        """The files that are on the disk as they were written."""
        self.error: OSError | None = None
        """The first problem; no further file is written then."""
        self._failure: BaseException | None = None
        self._waiting: queue.SimpleQueue[tuple[str, Mapping[str, Tensor] | str] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name="checkpoint", daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def add(self, name: str, content: Mapping[str, Tensor] | str) -> None:
        """Adds a file of tensors or a text; the tensors must not change until `join` returns."""
        self._waiting.put((name, content))

    def close(self) -> None:
        """Says that there are no further files."""
        for _ in self._threads:
            self._waiting.put(None)

    @property
    def busy(self) -> bool:
        """True while a thread is at work."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Waits until all files are written; `close` first. Raises what is no problem of the disk."""
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while (found := self._waiting.get()) is not None:
                if self.error is None and self._failure is None:
                    self._write(*found)
        except OSError as error:
            self.error = self.error or error
        except BaseException as error:
            self._failure = error

    def _write(self, name: str, content: Mapping[str, Tensor] | str) -> None:
        # Without `parents`: if the run's folder has vanished, a new one could be on another disk.
        self.folder.parent.mkdir(exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        if isinstance(content, str):
            entry = write_text(path, content)
        else:
            entry = write_safetensors(path, {key: LazyTensor.of(tensor) for key, tensor in content.items()})
        if problem := check_file(self.folder, name, entry):
            raise OSError(errno.EIO, f"the data read back differs from the data written: {problem}")
        self.entries[name] = entry
