"""Shards on node-local scratch: copied once, verified, shared by jobs, evicted by size; what does not fit stays where it is.

    SCRATCH/albef-ds/shards/CHECKSUM.tar   a verified copy; its name is the checksum that the manifest gives
    SCRATCH/albef-ds/views/JOB/            a corpus folder: manifest and indices, and a link per shard to its copy or its source

A view can be read like the corpus itself, so training needs to know nothing of this. One process per node stages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from albef_ds.common.atomic_files import atomic_path, write_file
from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest, ShardEntry, index_name
from albef_ds.data.stream.order import SampleOrder

_CHUNK = 8 << 20
_MOST_POSITIONS = 200_000
"""Positions of the order that are looked up one by one to find the shards that a run needs."""


@dataclass
class Staged:
    """A view and how it came about; sizes in bytes."""

    folder: Path
    copied: int = 0
    copied_bytes: int = 0
    found: int = 0
    linked: int = 0
    """Shards that are read from where they were."""
    evicted: int = 0

    def __str__(self) -> str:
        return (
            f"{self.copied} shards copied ({self.copied_bytes / 1e9:.2f} GB), {self.found} were there, {self.linked} stay on the "
            f"shared file system, {self.evicted} older ones evicted"
        )


def needed_shards(order: SampleOrder, start: int, num_samples: int | None, batch: int, share: slice) -> list[int]:
    """Numbers of the shards that a node reads, in the order in which it first does.

    Args:
        order: of the run's samples.
        start: position of the first sample (the run's samples so far).
        num_samples: samples of the run from there on, over all nodes; None: without end.
        batch: the global batch size.
        share: this node's part of each global batch.

    Where that is more positions than can be looked up in a second, those of one epoch are sampled, and the other shards follow.
    """
    length = order.num_samples if num_samples is None else num_samples
    if length > _MOST_POSITIONS:
        length = min(length, order.num_samples)
    places = range(batch)[share]
    batches = range(0, length, batch)
    step = max(1, len(batches) * len(places) // _MOST_POSITIONS)
    found: dict[int, None] = {}
    for first in batches[::step]:
        for place in places:
            if first + place < length:
                found.setdefault(order.locate(start + first + place)[0])
        if len(found) == order.num_shards:
            break
    if step > 1 or length != num_samples:
        for number in range(order.num_shards):
            found.setdefault(number)
    return list(found)


def stage(source: Path, scratch: Path, job: str, needed: Iterable[int], limit_bytes: int) -> tuple[Staged, int]:
    """Copy the `needed` shards of `source` to `scratch`, in this order, as far as `limit_bytes` and the disk allow.

    Args:
        source: a corpus folder.
        scratch: node-local folder, made if missing.
        job: name of the view.
        needed: numbers of shards.
        limit_bytes: all copies of all jobs on this node together.

    Returns:
        The view, and an open file that says it is in use until it is closed; it may be inherited by another program.

    Raises:
        UserError: `source` is no corpus folder, or a shard differs from the manifest's checksum.
        OSError: `scratch` cannot be used.
    """
    manifest = Manifest.load(source)
    root = scratch / "albef-ds"
    store, views = root / "shards", root / "views"
    for folder in (store, views):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(root / "lock"):
        in_use = _drop_dead_views(views)
        view = views / job
        shutil.rmtree(view, ignore_errors=True)
        view.mkdir()
        mark = os.open(view / "in-use", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(mark, fcntl.LOCK_SH)
        staged = Staged(view)
        wanted = [manifest.shards[number] for number in needed]
        room = _Room(store, limit_bytes, in_use | {_copy_name(shard) for shard in wanted}, staged)
        for shard in wanted:
            _fetch(source, store / _copy_name(shard), shard, room, staged)
        _fill_view(source, view, store, manifest, staged)
    return staged, mark


class _Room:
    """Keeps all copies within the limit: the longest unused go first, never one that is in use or wanted."""

    def __init__(self, store: Path, limit: int, kept: set[str], staged: Staged) -> None:
        self._limit, self._staged = limit, staged
        for leftover in store.glob("*.tmp"):  # of a staging that was killed; the lock says that none is at work
            leftover.unlink()
        entries = [(path, path.stat()) for path in store.iterdir()]
        self._used = sum(status.st_size for _, status in entries)
        self._idle = sorted(
            ((status.st_mtime, status.st_size, path) for path, status in entries if path.name not in kept), reverse=True
        )
        self.full = False

    def make(self, size: int) -> bool:
        """Whether `size` bytes more are allowed, after evicting what is needed for it."""
        while self._used + size > self._limit and self._idle:
            _, freed, path = self._idle.pop()
            path.unlink()
            self._used -= freed
            self._staged.evicted += 1
        return not self.full and self._used + size <= self._limit

    def took(self, size: int) -> None:
        """Count a copy that was made."""
        self._used += size


def _fetch(source: Path, copy: Path, shard: ShardEntry, room: _Room, staged: Staged) -> None:
    """Copy one shard unless a verified copy is there; leave it out where there is no room."""
    if copy.exists():
        os.utime(copy)  # used now: evicted last
        staged.found += 1
        return
    if not room.make(shard.num_bytes):
        return
    try:
        with atomic_path(copy) as temporary:
            if _copy(source / shard.name, temporary) != shard.checksum:
                raise DataError(f"shard {source / shard.name} is not what the manifest says: run `albef-data verify {source}`")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        room.full = True
        return
    room.took(shard.num_bytes)
    staged.copied += 1
    staged.copied_bytes += shard.num_bytes


def _copy(source: Path, target: Path) -> str:
    """Copy the bytes; their xxh3_128."""
    digest = xxhash.xxh3_128()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def _fill_view(source: Path, view: Path, store: Path, manifest: Manifest, staged: Staged) -> None:
    for shard in manifest.shards:
        copy = store / _copy_name(shard)
        local = copy.exists()
        staged.linked += not local
        os.symlink(copy if local else (source / shard.name).absolute(), view / shard.name)
        shutil.copyfile(source / index_name(shard.name), view / index_name(shard.name))
    # Last: a folder without a manifest is no corpus.
    write_file(view / MANIFEST_NAME, (source / MANIFEST_NAME).read_bytes())


def _drop_dead_views(views: Path) -> set[str]:
    """Remove the views of jobs that have ended; names of the copies that the others use."""
    used: set[str] = set()
    for view in views.iterdir():
        if _is_in_use(view / "in-use"):
            used |= {Path(os.readlink(link)).name for link in view.glob("*.tar") if link.is_symlink()}
        else:
            shutil.rmtree(view, ignore_errors=True)
    return used


def _is_in_use(mark: Path) -> bool:
    try:
        with open(mark, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _copy_name(shard: ShardEntry) -> str:
    return f"{shard.checksum}.tar"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
