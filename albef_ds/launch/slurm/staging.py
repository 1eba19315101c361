"""Stages shards on node-local scratch: copies them once, verifies them, shares them between jobs and evicts old ones.

    SCRATCH/albef-ds/shards/CHECKSUM.tar   a verified copy; its name is the checksum in the manifest
    SCRATCH/albef-ds/views/JOB/            a corpus folder: manifest, indices, orders; a link per shard to its copy or its source

Shards that do not fit are read from their source. A view can be read like the corpus itself, so training does not depend on this
module. One process per node stages.
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
from albef_ds.data.shards.order_file import order_files
from albef_ds.data.stream.order import SampleOrder

_CHUNK = 8 << 20
_MOST_POSITIONS = 200_000
"""Maximum number of positions of the order that are looked up to find the shards that a run needs."""


@dataclass
class Staged:
    """A view and the copies made for it; sizes in bytes."""

    folder: Path
    copied: int = 0
    copied_bytes: int = 0
    found: int = 0
    linked: int = 0
    """Shards that are read from their source."""
    evicted: int = 0

    def __str__(self) -> str:
        return (
            f"{self.copied} shards copied ({self.copied_bytes / 1e9:.2f} GB), {self.found} already present, {self.linked} read "
            f"from the shared file system, {self.evicted} older ones evicted"
        )


def needed_shards(order: SampleOrder, start: int, num_samples: int | None, batch: int, share: slice) -> list[int]:
    """Returns the numbers of the shards that a node reads, in the order of their first use.

    Args:
        order: order of the run's samples.
        start: position of the first sample (the run's samples so far).
        num_samples: samples of the run from `start`, over all nodes; None: unlimited.
        batch: the global batch size.
        share: this node's part of each global batch.

    If there are too many positions to look up in a second, those of one epoch are sampled, and the other shards follow.
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
    """Copies the `needed` shards of `source` to `scratch`, in this order, as far as `limit_bytes` and the disk allow.

    `scratch` is a node-local folder, created if missing, and `job` the name of the view. `limit_bytes` limits all copies of all
    jobs on this node together.

    Returns:
        The view, and an open file that marks it as in use until it is closed; another program may inherit it.

    Raises:
        UserError: `source` is not a corpus folder, or a shard differs from the manifest's checksum.
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
        space = _Space(store, limit_bytes, in_use | {_copy_name(shard) for shard in wanted}, staged)
        for shard in wanted:
            _fetch(source, store / _copy_name(shard), shard, space, staged)
        _fill_view(source, view, store, manifest, staged)
    return staged, mark


class _Space:
    """Keeps all copies within the limit by evicting the least recently used ones that are neither in use nor needed."""

    def __init__(self, store: Path, limit: int, kept: set[str], staged: Staged) -> None:
        self._limit, self._staged = limit, staged
        for leftover in store.glob("*.tmp"):  # from a killed staging; the lock ensures that no other one is running
            leftover.unlink()
        entries = [(path, path.stat()) for path in store.iterdir()]
        self._used = sum(status.st_size for _, status in entries)
        self._idle = sorted(
            ((status.st_mtime, status.st_size, path) for path, status in entries if path.name not in kept), reverse=True
        )
        self.full = False

    def make(self, size: int) -> bool:
        """Evicts copies as needed and returns whether `size` more bytes are allowed."""
        while self._used + size > self._limit and self._idle:
            _, freed, path = self._idle.pop()
            path.unlink()
            self._used -= freed
            self._staged.evicted += 1
        return not self.full and self._used + size <= self._limit

    def took(self, size: int) -> None:
        """Counts a copy that was made."""
        self._used += size


def _fetch(source: Path, copy: Path, shard: ShardEntry, space: _Space, staged: Staged) -> None:
    """Copies one shard unless a verified copy exists or there is no space."""
    if copy.exists():
        os.utime(copy)  # marks it as recently used
        staged.found += 1
        return
    if not space.make(shard.num_bytes):
        return
    try:
        with atomic_path(copy) as temporary:
            if _copy(source / shard.name, temporary) != shard.checksum:
                raise DataError(f"shard {source / shard.name} differs from the manifest: run `albef-data verify {source}`")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        space.full = True
        return
    space.took(shard.num_bytes)
    staged.copied += 1
    staged.copied_bytes += shard.num_bytes


def _copy(source: Path, target: Path) -> str:
    """Copies the bytes and returns their xxh3_128."""
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
    for path in order_files(source):
        shutil.copyfile(path, view / path.name)
    # Written last, because only the manifest makes the folder a corpus.
    write_file(view / MANIFEST_NAME, (source / MANIFEST_NAME).read_bytes())


def _drop_dead_views(views: Path) -> set[str]:
    """Removes the views of jobs that have ended and returns the names of the copies that the others use."""
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
