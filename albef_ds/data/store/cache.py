"""A bounded folder of files on a node's disk, shared by all processes of the node and safe against kills.

    FOLDER/albef-ds-store/CORPUS/NNNNN.tar         a whole, verified file; CORPUS is the checksum of the corpus's manifest
    FOLDER/albef-ds-store/CORPUS/NNNNN.tar.*.tmp   a file that a process is writing, of its final length, locked by that process
    FOLDER/albef-ds-store/CORPUS.leader            locked by the process that fills the cache for a run that is reading CORPUS
    FOLDER/albef-ds-store/lock                     locked while room is counted and made

The sizes of these files, unfinished ones included, never add up to more than the bound: room is reserved before the fetch.
A killed process leaves an unfinished file without a lock, which the next one that needs room removes. Readers need no lock: they
open a file, read and close it, and fetch the bytes from the store if it has been evicted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef_ds.common.atomic_files import temporary_name
from albef_ds.common.errors import MachineError

SUBFOLDER = "albef-ds-store"
LOCK_NAME = "lock"


def default_folder() -> Path:
    """Returns the folder of the cache where `data.cache` is empty: in ALBEF_SCRATCH, or else in the folder of temporary files.

    The latter is made, and only its owner may enter it: everybody can guess its name, and what lies in it is trained on.

    Raises:
        MachineError: it belongs to somebody else.
    """
    scratch = os.environ.get("ALBEF_SCRATCH")
    if scratch:
        return Path(os.path.expandvars(scratch)) / "albef-ds" / "cache"
    folder = Path(tempfile.gettempdir()) / f"albef-ds-cache-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise MachineError(f"{folder} is not a folder of your own: give the cache another one by data.cache")
    folder.chmod(0o700)
    return folder


class NodeCache:
    """The files of one corpus in the cache `folder`, which holds at most `max_bytes` of all corpora. Picklable.

    Raises:
        MachineError: the folder cannot be used.
    """

    def __init__(self, folder: Path, corpus: str, max_bytes: int) -> None:
        self.folder, self.corpus, self.max_bytes = folder / SUBFOLDER, folder / SUBFOLDER / corpus, max_bytes
        try:
            self.corpus.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._remove_orphans()
        except OSError as error:
            raise MachineError(f"data.cache {folder} cannot be used ({error.strerror}): give a folder on a local disk") from None

    def path(self, name: str) -> Path:
        """Returns the place of file `name`, which need not be there."""
        return self.corpus / name

    def has(self, name: str) -> bool:
        """Returns whether file `name` is there, whole."""
        return self.path(name).exists()

    def used(self) -> int:
        """Returns the bytes of all files in the folder, finished or not."""
        with self._locked():
            return sum(size for _, size in self._files())

    @contextlib.contextmanager
    def reserved(
        self, name: str, size: int, keep: Sequence[str] | None = None, spare: int = 0
    ) -> Iterator[tuple[int, Path] | None]:
        """Yields a descriptor and a temporary path of `size` bytes for file `name`; None if there is no room or it is there.

        `install` gives the file its name; otherwise it is removed when the block ends.

        Args:
            name: the file.
            size: its bytes.
            keep: names of this corpus, the one needed soonest first. Other files of this corpus and of corpora that no run is
                reading may be evicted for the new one, and then those behind `name`, the last first. None: nothing is evicted.
            spare: bytes to leave free beside it.

        Raises:
            OSError: the disk is full, or fails.
        """
        temporary = temporary_name(self.path(name))
        with self._locked():
            descriptor = self._reserve(temporary, name, size, keep, spare)
        if descriptor < 0:
            yield None
            return
        try:
            yield descriptor, temporary
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)

    def install(self, temporary: Path, name: str) -> None:
        """Gives the finished file `temporary` its name. With the lock, so that no count meets it under both names."""
        with self._locked():
            os.replace(temporary, self.path(name))

    @contextlib.contextmanager
    def leading(self) -> Iterator[bool]:
        """Yields True if this process fills the cache for this corpus until the block ends; False if another one does."""
        with _lock_of(self.corpus.with_suffix(".leader"), wait=False) as held:
            yield held

    def _reserve(self, temporary: Path, name: str, size: int, keep: Sequence[str] | None, spare: int) -> int:
        self._remove_orphans()
        self.corpus.mkdir(parents=True, exist_ok=True)
        if self.has(name) or any(self.corpus.glob(f"{name}.*.tmp")) or not self._make_room(name, size + spare, keep):
            return -1
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.ftruncate(descriptor, size)
        except OSError:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor

    def _make_room(self, name: str, size: int, keep: Sequence[str] | None) -> bool:
        """Evicts files until `size` bytes fit; returns False, and evicts none, if they cannot."""
        files = dict(self._files())
        missing = sum(files.values()) + size - self.max_bytes
        if missing <= 0:
            return True
        if keep is None:
            return False
        places = {self.path(other): place for place, other in enumerate(keep)}
        own = places.get(self.path(name), len(places))
        others = {path.parent for path in files} - {self.corpus}
        evictable = {self.corpus, *(folder for folder in others if not _is_led(folder))}
        whole = [path for path in files if path.parent in evictable and path.suffix != ".tmp"]
        loose = [path for path in whole if places.get(path, len(places)) > own]
        loose.sort(key=lambda path: (-places.get(path, len(places)), path.parent == self.corpus, str(path)))
        chosen: list[Path] = []
        for path in loose:
            if missing <= 0:
                break
            chosen.append(path)
            missing -= files[path]
        if missing > 0:
            return False
        for path in chosen:
            path.unlink(missing_ok=True)
        return True

    def _files(self) -> list[tuple[Path, int]]:
        found = []
        for folder in self.folder.iterdir():
            if folder.is_dir():
                for path in folder.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        found.append((path, path.stat().st_size))
        return found

    def _remove_orphans(self) -> None:
        """Removes unfinished files of processes that are gone. Called with the lock."""
        for path, _ in self._files():
            if path.suffix == ".tmp":
                with contextlib.suppress(OSError):
                    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink(missing_ok=True)
                    finally:
                        os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _lock_of(self.folder / LOCK_NAME, wait=True):
            yield


@contextlib.contextmanager
def _lock_of(path: Path, *, wait: bool) -> Iterator[bool]:
    """Yields whether this process has the lock of file `path`, until the block ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _is_led(corpus: Path) -> bool:
    with _lock_of(corpus.with_suffix(".leader"), wait=False) as free:
        return not free
