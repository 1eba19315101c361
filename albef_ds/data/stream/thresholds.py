"""Finds the samples of a corpus that reach the thresholds of a mixture: once per node, and kept for later starts.

    FOLDER/albef-ds-thresholds/DIGEST.npy    a bit for each sample of the corpus; FOLDER is that of the node's cache

DIGEST is of the corpus's manifest and the thresholds, so another corpus or another limit is read anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.atomic_files import atomic_file, locked
from albef_ds.common.errors import DataError, MachineError
from albef_ds.config.mixture import CorpusShare
from albef_ds.config.schema import RunConfig
from albef_ds.data.shards.reader import SampleReader, parse_meta
from albef_ds.data.store.open import cache_folder, open_corpus
from albef_ds.data.store.reader import StoreReader

SUBFOLDER = "albef-ds-thresholds"


def kept_rows(share: CorpusShare, reader: SampleReader, config: RunConfig) -> list[NDArray[np.int64]] | None:
    """Returns the rows of each shard of the corpus of `reader` that reach the thresholds of `share`; None without thresholds.

    The first process of a node reads the JSON of every sample of the corpus; others wait for it, and later starts do not read it.

    Raises:
        DataError: no sample reaches them, or a sample cannot be read.
        MachineError: the folder of the cache cannot be written to.
    """
    if not share.minimum:
        return None
    folder = cache_folder(config.data) / SUBFOLDER
    shards = [[shard.name, shard.num_samples, shard.checksum] for shard in reader.manifest.shards]
    path = folder / f"{xxhash.xxh3_128_hexdigest(json.dumps([shards, sorted(share.minimum.items())]).encode())}.npy"
    count = sum(reader.counts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(path):
            mask = _stored(path, count)
            if mask is None:
                mask = _found(share, reader, config)
                with atomic_file(path) as file:
                    np.save(file, np.packbits(mask))
    except OSError as error:
        raise MachineError(
            f"data.cache {folder.parent} cannot be used ({error.strerror}): give a folder on a local disk"
        ) from None
    if not mask.any():
        limits = ", ".join(f"{name} {value:g}" for name, value in share.minimum.items())
        raise DataError(f"no sample of data.mixture {share.name} reaches {limits}: check its JSON, or lower the limit")
    bounds = np.cumsum(reader.counts)[:-1]
    return [np.flatnonzero(part).astype(np.int64) for part in np.split(mask, bounds)]


def _found(share: CorpusShare, reader: SampleReader, config: RunConfig) -> NDArray[np.bool_]:
    """Reads every sample; those in a store in whole shards."""
    whole = open_corpus(share.shards, config.data, whole=True) if isinstance(reader, StoreReader) else reader
    places = ((shard, row) for shard, count in enumerate(whole.counts) for row in range(count))
    mask = np.fromiter((_reaches(whole.read_meta(shard, row), share) for shard, row in places), np.bool_, sum(whole.counts))
    whole.close()
    return mask


def _stored(path: Path, count: int) -> NDArray[np.bool_] | None:
    """Returns what an earlier process has written; None if there is nothing, or nothing of this size."""
    try:
        packed = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if packed.dtype != np.uint8 or packed.shape != (-(-count // 8),):
        return None
    return np.unpackbits(packed, count=count).astype(np.bool_)


def _reaches(meta: bytes, share: CorpusShare) -> bool:
    try:
        values = parse_meta(meta)
    except ValueError:
        return False
    found = [(values.get(name), least) for name, least in share.minimum.items()]
    return all(isinstance(value, (int, float)) and value >= least for value, least in found)
