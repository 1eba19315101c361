"""Random access to the samples of a corpus in an object store: the interface of `ShardReader`, over a cache and range requests.

A sample whose shard is whole in the node's cache is read from there. Every other one is one request for the range of its image
and JSON, sent ahead for the samples that `ahead` announces. `CacheFiller` fetches the whole shards.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import MANIFEST_NAME, WITH_CHECKSUMS, Manifest, ShardEntry, index_name, parse_members
from albef_ds.data.shards.reader import compare
from albef_ds.data.store.cache import NodeCache
from albef_ds.data.store.objects import Store
from albef_ds.data.store.requests import LATER, NOW, SOON, RequestThreads

OPEN_INDICES = 256
"""Number of indices kept per process."""
REQUESTS = 16
"""Threads per process that send requests."""
PART = 8 << 20
"""Bytes of one request for a part of a whole shard."""
PARTS_AT_ONCE = 4
_TRIES = 3
"""Fetches of a sample or an index whose bytes are not those written, since a proxy may have damaged them."""
_CLOSE = 1 << 14
"""Bytes between image and JSON above which they are two requests."""
Place = tuple[int, int]
"""Shard number and row of a sample."""


class StoreReader:
    """Reads sample `row` of shard `number` of the corpus at `url`. Picklable, and usable after a fork.

    Args:
        url: the corpus.
        folder: folder of the node's cache.
        max_bytes: bound of the cache.
        whole: True to fetch the whole shard of a sample first, for sets that are read in order.

    Raises:
        UserError: as `Store` and `NodeCache`; the manifest is missing or damaged, or a shard's size differs from it.
    """

    def __init__(self, url: str, folder: Path, max_bytes: int, *, whole: bool = False) -> None:
        self.store = Store(url)
        self.folder = self.store.url
        raw = self.store.read(MANIFEST_NAME)
        self.manifest = Manifest.parse(raw, self.store.address(MANIFEST_NAME))
        _check_sizes(self.store, self.manifest.shards)
        self.cache = NodeCache(folder, xxhash.xxh3_128_hexdigest(raw), max_bytes)
        self.sizes = [shard.num_bytes for shard in self.manifest.shards]
        self._whole = whole
        self._process = _Process()

    @property
    def counts(self) -> list[int]:
        """Number of samples per shard."""
        return [shard.num_samples for shard in self.manifest.shards]

    def shard_name(self, number: int) -> str:
        """Returns the file name of shard `number`."""
        return self.manifest.shards[number].name

    def ahead(self, places: Iterable[Place]) -> None:
        """Sends requests for the samples at `places` whose shards are not in the cache, for later calls of `read`."""
        process = self._here()
        for number, row in places:
            if (number, row) not in process.coming and not self.cache.has(self.shard_name(number)):
                process.coming[number, row] = process.requests.submit(SOON, self._fetch, number, row)

    def read(self, number: int, row: int) -> tuple[bytes, bytes]:
        """Returns image bytes and JSON bytes of one sample.

        Raises:
            DataError: the store does not give them.
            BrokenSampleError: the bytes in the store are not those that were written.
        """
        process = self._here()
        coming = process.coming.pop((number, row), None)
        if coming is None:
            cached = self._from_cache(number, row)
            if cached is not None:
                return cached
            coming = process.requests.submit(NOW, self._fetch, number, row)
        return coming.result()

    def read_meta(self, number: int, row: int) -> bytes:
        """Returns the JSON bytes of one sample. Raises as `read`."""
        return self.read(number, row)[1]

    def fetch_shard(self, number: int, keep: Sequence[str] | None = None, spare: int = 0) -> bool:
        """Fetches the whole shard `number` into the cache; `keep` and `spare` as in `NodeCache.reserved`.

        Returns False if there is no room, another process is fetching it, or the store holds other bytes than the manifest says.

        Raises:
            DataError: the store does not give it.
            OSError: the disk is full, or fails.
        """
        shard = self.manifest.shards[number]
        with self.cache.reserved(shard.name, shard.num_bytes, keep, spare) as place:
            if place is None:
                return False
            descriptor, temporary = place
            self._fetch_parts(shard, descriptor)
            if _digest(descriptor, shard.num_bytes) != shard.checksum:
                return False
            self.cache.install(temporary, shard.name)
        return True

    def close(self) -> None:
        """Ends this process's requests; a later read starts again."""
        self._here().requests.close()
        self._process = _Process()

    def _from_cache(self, number: int, row: int) -> tuple[bytes, bytes] | None:
        """Returns the sample from a whole shard in the cache; None if it is not there, or the disk has damaged it."""
        shard = self.manifest.shards[number]
        if self._whole and not self.cache.has(shard.name):
            with contextlib.suppress(OSError):
                self.fetch_shard(number)
        try:
            descriptor = os.open(self.cache.path(shard.name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            place: list[int] = self._members(number)[row].tolist()
            image, meta = os.pread(descriptor, place[1], place[0]), os.pread(descriptor, place[3], place[2])
        except OSError:
            return None
        finally:
            os.close(descriptor)
        try:
            _check(image, meta, place)
        except ValueError:
            self.cache.path(shard.name).unlink(missing_ok=True)
            return None
        return image, meta

    def _fetch(self, number: int, row: int) -> tuple[bytes, bytes]:
        name = self.shard_name(number)
        place: list[int] = self._members(number)[row].tolist()
        image, meta = (place[0], place[0] + place[1]), (place[2], place[2] + place[3])
        start, end = min(image[0], meta[0]), max(image[1], meta[1])
        for attempt in range(_TRIES):
            if end - start <= place[1] + place[3] + _CLOSE:
                raw = self.store.read(name, start, end)
                found = raw[image[0] - start : image[1] - start], raw[meta[0] - start : meta[1] - start]
            else:
                found = self.store.read(name, *image), self.store.read(name, *meta)
            try:
                _check(*found, place)
            except ValueError:
                if attempt + 1 == _TRIES:
                    raise
                continue
            return found
        raise AssertionError

    def _fetch_parts(self, shard: ShardEntry, descriptor: int) -> None:
        requests = self._here().requests
        starts = iter(range(0, shard.num_bytes, PART))
        running: list[tuple[int, Future[bytes]]] = []
        while True:
            while len(running) < PARTS_AT_ONCE and (start := next(starts, None)) is not None:
                end = min(start + PART, shard.num_bytes)
                running.append((start, requests.submit(LATER, self.store.read, shard.name, start, end)))
            if not running:
                return
            start, part = running.pop(0)
            content = memoryview(part.result())
            while content:
                done = os.pwrite(descriptor, content, start)
                start, content = start + done, content[done:]

    def _members(self, number: int) -> NDArray[np.int64]:
        """Returns the index of shard `number`, which one thread fetches while others wait for it."""
        process = self._here()
        with process.lock:
            index = process.indices.get(number)
            own = index is None
            if index is None:
                index = process.indices[number] = Future()
                while len(process.indices) > OPEN_INDICES:
                    process.indices.popitem(last=False)
            process.indices.move_to_end(number)
        if own:
            try:
                index.set_result(self._load_members(number))
            except BaseException as error:
                process.indices.pop(number, None)
                index.set_exception(error)
        return index.result()

    def _load_members(self, number: int) -> NDArray[np.int64]:
        shard = self.manifest.shards[number]
        name = index_name(shard.name)
        path, rebuild = self.store.address(name), f"rebuild it with `albef-data index {self.folder}`"
        with contextlib.suppress(OSError, DataError):
            return parse_members(self.cache.path(name).read_bytes(), shard, path, rebuild)
        for attempt in range(_TRIES):
            content = self.store.read(name)
            try:
                members = parse_members(content, shard, path, rebuild)
                break
            except DataError:
                if attempt + 1 == _TRIES:
                    raise
        with contextlib.suppress(OSError), self.cache.reserved(name, len(content)) as place:
            if place is not None:
                os.pwrite(place[0], content, 0)
                self.cache.install(place[1], name)
        return members

    def _here(self) -> _Process:
        if self._process.number != os.getpid():
            self._process = _Process()
        return self._process

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_process"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process = _Process()


class _Process:
    """State that belongs to one process: threads do not survive a fork."""

    def __init__(self) -> None:
        self.number = os.getpid()
        self.requests = RequestThreads(REQUESTS)
        self.coming: dict[Place, Future[tuple[bytes, bytes]]] = {}
        self.indices: OrderedDict[int, Future[NDArray[np.int64]]] = OrderedDict()
        self.lock = threading.Lock()


def _check(image: bytes, meta: bytes, place: Sequence[int]) -> None:
    """Raises `ValueError` unless both members are those that were written; indices without checksums know only lengths."""
    if len(image) != place[1] or len(meta) != place[3]:
        raise ValueError("a member is too short")
    if len(place) == WITH_CHECKSUMS:
        compare(image, place[4])
        compare(meta, place[5])


def _digest(descriptor: int, size: int) -> str:
    if not size:
        return xxhash.xxh3_128_hexdigest(b"")
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as content:
        return xxhash.xxh3_128_hexdigest(content)


def _check_sizes(store: Store, shards: Sequence[ShardEntry]) -> None:
    """Raises `DataError` if the store lists its objects and a shard is missing or of another size."""
    found = store.sizes()
    if found is None:
        return
    missing = [shard.name for shard in shards if shard.name not in found]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} of {len(shards)} shards are missing in {store.url}: {names}; copy them again")
    for shard in shards:
        if found[shard.name] != shard.num_bytes:
            size = found[shard.name]
            raise DataError(f"{store.address(shard.name)} has {size} bytes, the manifest says {shard.num_bytes}; copy it again")
