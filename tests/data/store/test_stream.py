"""Training from an object store sees the samples of training from the folder, on any ranks, under faults and after kills."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path

import pytest

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.data.store import objects
from albef_ds.data.store.cache import NodeCache
from tests import servers
from tests.data.stream.test_corpus import run, stream


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)


# The larger cache holds the indices and one shard, so shards come and go; the smaller one does not even hold the indices.
@pytest.mark.parametrize("cache_gb", [36e-6, 1e-6])
def test_the_samples_are_those_of_the_folder_under_faults(
    s3: servers.Faults, s3_corpus: str, corpus: Path, tmp_path: Path, cache_gb: float
) -> None:
    store = {"cache": str(tmp_path), "cache_gb": cache_gb}
    whole = run(corpus, 6, world_size=1, micro=6)
    s3.unavailable = s3.cut = s3.reset = 0.1
    first = run(s3_corpus, 3, world_size=1, micro=6, **store)
    assert first | run(s3_corpus, 3, world_size=4, micro=3, start=36, **store) == whole
    assert NodeCache(tmp_path, "any", 1).used() <= cache_gb * 1e9


def test_workers_share_the_cache(s3: servers.Faults, s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    s3.unavailable = 0.1
    store = {"cache": str(tmp_path), "workers": 2}
    assert run(s3_corpus, 6, world_size=1, micro=3, **store) == run(corpus, 6, world_size=1, micro=6)


def test_windows_give_the_same_order_from_the_store_and_the_folder(s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    store = {"cache": str(tmp_path), "cache_gb": 80e-6}
    assert run(s3_corpus, 4, world_size=2, micro=6, window=5, **store) == run(corpus, 4, world_size=1, micro=6, window=5)
    assert run(corpus, 4, world_size=1, micro=6, window=5) != run(corpus, 4, world_size=1, micro=6)


def test_a_run_goes_on_with_the_cache_of_a_killed_one(s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    def read_for_ever() -> None:
        for _ in iter(stream(s3_corpus, micro=4, cache=str(tmp_path), cache_gb=1.0)):
            os.write(begun, b"1")

    ready, begun = os.pipe()
    victim = multiprocessing.get_context("fork").Process(target=read_for_ever)
    victim.start()
    os.read(ready, 1)
    os.kill(victim.pid or 0, signal.SIGKILL)
    victim.join()
    whole = run(corpus, 2, world_size=1, micro=4)
    assert run(s3_corpus, 2, world_size=1, micro=4, cache=str(tmp_path), cache_gb=1.0) == whole


def test_a_store_that_fails_ends_the_stream_in_one_line(s3: servers.Faults, s3_corpus: str, tmp_path: Path) -> None:
    source = stream(s3_corpus, micro=4, workers=1, cache=str(tmp_path))
    s3.unavailable = 1.0
    with pytest.raises(DataError, match=r"s3://bucket/some/corpus/.* cannot be read \(8 attempts") as caught:
        list(islice(source, 1))
    source.close()
    assert "\n" not in str(caught.value) and servers.SECRET not in str(caught.value)


def test_a_retrieval_set_is_that_of_the_folder(s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    data = DataConfig(cache=str(tmp_path))
    local, remote = RetrievalSet(corpus, data, 16), RetrievalSet(s3_corpus, data, 16)
    assert remote.captions == local.captions and remote.keys == local.keys
    assert (remote.images(range(23)) == local.images(range(23))).all()


def test_settings_hold_no_credentials() -> None:
    for url in ("s3://key:hush@bucket/corpus", "https://host/corpus?token=hush"):
        with pytest.raises(ConfigError, match=r"data.shards .*environment") as caught:
            DataConfig(shards=url)
        assert "hush" not in str(caught.value)
    DataConfig(shards="https://host/{00..09}.tar?token=x")  # plain tars go on working
