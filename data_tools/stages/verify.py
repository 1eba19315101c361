"""Checks a written corpus against its manifest, byte by byte, and rebuilds member offsets."""

from __future__ import annotations

import json
import os
import tarfile
from array import array
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.common.urls import is_url
from albef_ds.data.shards.format import (
    BLOCK,
    IMAGE_EXTENSIONS,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    checksum,
    index_name,
    load_members,
    sample_key,
)
from data_tools.content import images
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.files.destination import Place, StoreDestination
from data_tools.files.shard_writer import WRITING_NAME, encode_meta, save_index, tar_header
from data_tools.matching.distinct import distinct
from data_tools.stages.hash_files import FINGERPRINTS_NAME, read_hashes


@dataclass(frozen=True)
class _Task:
    place: Place
    entry: ShardEntry
    first_sample: int
    decode: bool


@dataclass(frozen=True)
class _Found:
    problems: list[str]
    hashes: NDArray[np.uint64]
    """A hash of each sample's image and id."""


def verify(place: Place, parallel: Parallel, *, decode: bool = False) -> list[str]:
    """Problems of the corpus in `place`, a folder or a URL, one line each; an empty list if it is sound.

    Checks the presence, size and checksum of every listed file; that every header, key, offset, padding byte and JSON member
    is as this package writes it; that no image occurs twice; that there is no other tar; with `decode`, that every image
    decodes. Raises UserError if the manifest cannot be read.
    """
    store, manifest = _open(place)
    tasks, first = [], 0
    for entry in manifest.shards:
        tasks.append(_Task(place, entry, first, decode))
        first += entry.num_samples
    found = run_tasks(_verify_shard, tasks, parallel, "verify", size_of=lambda task: task.entry.num_samples, unit="image")
    problems = sorted(problem for result in found for problem in result.problems)
    hashes = np.concatenate([result.hashes for result in found])
    if repeated := len(hashes) - len(distinct(hashes)):
        problems.append(f"{repeated} samples repeat the image and image_id of another: run albef-data again from the sources")
    listed = {name for entry in manifest.shards for name in (entry.name, index_name(entry.name))}
    names = sorted(store.sizes() if store else os.listdir(place))
    for name in names:
        if name.endswith((".tar", ".tmp", ".index.npy")) and name not in listed:
            problems.append(f"{name}: not in the manifest, left by an interrupted run or another program: remove it")
    with _local(place, FINGERPRINTS_NAME) as folder:
        problems += _verify_fingerprints(folder, place, manifest)
    if WRITING_NAME in names:
        problems.append(f"{WRITING_NAME}: a run that writes to this folder is unfinished: finish it")
    return problems


def _open(place: Place) -> tuple[StoreDestination | None, Manifest]:
    """The store of a corpus, None for a folder, and its manifest. Raises DataError if there is none or it is damaged."""
    if not is_url(str(place)):
        return None, Manifest.load(Path(place))
    store = StoreDestination(str(place), Path())
    if (manifest := store.manifest()) is None:
        raise DataError(f"{place}/{MANIFEST_NAME} does not exist: give a URL that `albef-data build` has written to")
    return store, manifest


def _local(place: Place, *names: str) -> AbstractContextManager[Path]:
    """A local folder with the files `names` of a corpus: its own, or a temporary copy of objects."""
    return StoreDestination(str(place), Path()).local_copy(*names) if is_url(str(place)) else nullcontext(Path(place))


def _verify_fingerprints(folder: Path, place: Place, manifest: Manifest) -> list[str]:
    path = folder / FINGERPRINTS_NAME
    if not path.exists():
        return []  # corpora of other writers have none; `append` asks for it
    mend = f"make it again with `albef-data hashes` from the source corpus=shards:{place}"
    try:
        rows = len(read_hashes(path))
    except DataError:
        return [f"{FINGERPRINTS_NAME}: damaged: {mend}"]
    if rows != manifest.num_samples:
        return [f"{FINGERPRINTS_NAME}: {rows} rows for {manifest.num_samples} samples: {mend}"]
    return []


def _verify_shard(task: _Task) -> _Found:
    try:
        with _local(task.place, task.entry.name, index_name(task.entry.name)) as folder:
            return _verify_files(task, folder)
    except DataError as error:
        return _Found([f"{task.entry.name}: {error}"], np.zeros(0, np.uint64))


def _verify_files(task: _Task, folder: Path) -> _Found:
    entry, path = task.entry, folder / task.entry.name
    try:
        raw = np.memmap(path, np.uint8, "r")
        index = load_members(folder, entry)
    except (OSError, ValueError) as error:
        return _Found([f"{entry.name}: {error}"], np.zeros(0, np.uint64))
    problems = []
    if len(raw) != entry.num_bytes:
        problems.append(f"{entry.name}: {len(raw)} bytes, the manifest says {entry.num_bytes}: copy it again")
    elif xxhash.xxh3_128_hexdigest(raw.data) != entry.checksum:
        problems.append(f"{entry.name}: its checksum differs from the manifest's: copy it again")
    if xxhash.xxh3_128_hexdigest((folder / index_name(entry.name)).read_bytes()) != entry.index_checksum:
        problems.append(f"{index_name(entry.name)}: its checksum differs from the manifest's: copy it again")
    hashes, position, counts = [], 0, Counter[str]()
    for number, (offset, size, meta_offset, meta_size, *sums) in enumerate(index.tolist(), start=task.first_sample):
        key = sample_key(number)
        content, meta = raw[offset : offset + size].tobytes(), raw[meta_offset : meta_offset + meta_size].tobytes()
        headers = [tar_header(f"{key}.{extension}", size) for extension in IMAGE_EXTENSIONS]
        if offset != position + BLOCK or raw[position:offset].tobytes() not in headers:
            counts["image not where or what the index says"] += 1
        position = offset + -(-size // BLOCK) * BLOCK
        if meta_offset != position + BLOCK or raw[position:meta_offset].tobytes() != tar_header(f"{key}.json", meta_size):
            counts["JSON not where or what the index says"] += 1
        position = meta_offset + -(-meta_size // BLOCK) * BLOCK
        try:
            value = json.loads(meta)
            if encode_meta(value) != meta:
                counts["JSON is not in our form"] += 1
            hashes.append(xxhash.xxh3_64_intdigest(content, xxhash.xxh3_64_intdigest(str(value["image_id"]).encode())))
        except (ValueError, AttributeError):
            counts["JSON cannot be read or lacks a field"] += 1
        if sums and [bits % (1 << 64) for bits in sums] != [checksum(content), checksum(meta)]:
            counts["member with another checksum than the index says"] += 1
        if task.decode:
            try:
                images.decode(content)
            except images.BrokenImage as error:
                counts[f"image: {error}"] += 1
    if position + 2 * BLOCK != len(raw) or raw[position:].any():
        counts["tar does not end after its last sample"] += 1
    problems += [f"{entry.name}: {count} x {reason}: write the corpus again" for reason, count in counts.items()]
    return _Found(problems, np.array(hashes, np.uint64))


def rebuild_index(place: Place) -> int:
    """Writes the offsets and checksums of the members of every listed tar again; returns the number of shards.

    An index of a corpus that was written without such checksums gets them. Raises UserError if a tar is missing, damaged, or
    lacks a sample that the manifest lists.
    """
    store, manifest = _open(place)
    entries, first = [], 0
    for entry in manifest.shards:
        with _local(place, entry.name) as folder:
            offsets, checksums = _read_members(folder / entry.name, entry, first)
            entries.append(replace(entry, index_checksum=save_index(folder, entry.name, offsets, checksums)))
            if store:
                store.put(index_name(entry.name), folder / index_name(entry.name))
        first += entry.num_samples
    new = replace(manifest, shards=tuple(entries))
    store.put_manifest(new) if store else new.save(Path(place))
    return len(entries)


def _read_members(path: Path, entry: ShardEntry, first: int) -> tuple[array[int], array[int]]:
    try:
        raw = np.memmap(path, np.uint8, "r")
        with tarfile.open(path, "r:") as tar:
            members = {member.name: (member.offset_data, member.size) for member in tar}
    except (OSError, ValueError, tarfile.TarError) as error:
        raise DataError(f"{path} cannot be read ({error}): copy it again") from None
    if xxhash.xxh3_128_hexdigest(raw.data) != entry.checksum:
        raise DataError(f"{path} is damaged (its checksum differs from the manifest's): copy it again")
    offsets, checksums = array("q"), array("Q")
    for number in range(first, first + entry.num_samples):
        key = sample_key(number)
        image = next((members[name] for e in IMAGE_EXTENSIONS if (name := f"{key}.{e}") in members), None)
        meta = members.get(f"{key}.json")
        if image is None or meta is None:
            raise DataError(f"{path} lacks sample {key}: copy it again or write the corpus again")
        offsets.extend((*image, *meta))
        checksums.extend(checksum(raw[start : start + size].tobytes()) for start, size in (image, meta))
    return offsets, checksums
