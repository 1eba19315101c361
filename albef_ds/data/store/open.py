"""Opens a corpus in a folder or an object store, as the settings name it."""

from __future__ import annotations

import os
from pathlib import Path

from albef_ds.common.urls import is_corpus_url
from albef_ds.config.schema import DataConfig
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest
from albef_ds.data.shards.reader import SampleReader, ShardReader
from albef_ds.data.store.cache import default_folder
from albef_ds.data.store.objects import Store
from albef_ds.data.store.reader import StoreReader


def cache_bytes(config: DataConfig) -> int:
    """Returns the bound of the node's cache in bytes."""
    return int(config.cache_gb * 1e9)


def cache_folder(config: DataConfig) -> Path:
    """Returns the folder of the node's cache. Raises `MachineError` as `default_folder`."""
    return Path(os.path.expandvars(config.cache)) if config.cache else default_folder()


def open_corpus(shards: str | Path, config: DataConfig, *, whole: bool = False) -> SampleReader:
    """Returns the reader of the corpus `shards`. Raises `UserError` as `ShardReader` and `StoreReader`.

    Args:
        shards: a folder or a URL.
        config: the data section: the cache.
        whole: as in `StoreReader`.
    """
    if not is_corpus_url(str(shards)):
        return ShardReader(Path(shards))
    return StoreReader(str(shards), cache_folder(config), cache_bytes(config), whole=whole)


def read_beside(shards: str, name: str) -> bytes:
    """Returns the bytes of the file `name` beside the manifest of the corpus `shards`, a folder or a URL.

    Raises `FileNotFoundError` if a folder has none, `DataError` if a store does not give it.
    """
    return Store(shards).read(name) if is_corpus_url(shards) else (Path(shards) / name).read_bytes()


def load_manifest(shards: str | Path, attempts: int = 0) -> Manifest:
    """Returns the manifest of the corpus `shards`, a folder or a URL. Raises `UserError` as `Manifest.load` and `Store.read`.

    `attempts` as in `Store`: few where the manifest is not needed to go on.
    """
    if not is_corpus_url(str(shards)):
        return Manifest.load(Path(shards))
    store = Store(str(shards), attempts)
    return Manifest.parse(store.read(MANIFEST_NAME), store.address(MANIFEST_NAME))
