"""Samples from an object store are those of the local shards, whatever the store does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError, DataError, UserError
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.store import objects
from albef_ds.data.store.objects import Store
from albef_ds.data.store.reader import StoreReader
from tests import servers

PLACES = [(shard, row) for shard in range(5) for row in range(5 if shard < 4 else 3)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)


def read_all(reader: Any) -> list[tuple[bytes, bytes]]:
    try:
        return [reader.read(*place) for place in PLACES]
    finally:
        reader.close()


def test_samples_are_those_of_the_folder_with_and_without_the_cache(s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    whole = read_all(ShardReader(corpus))
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    assert reader.counts == ShardReader(corpus).counts and read_all(reader) == whole
    assert not list(reader.cache.corpus.glob("*.tar"))
    assert all(reader.fetch_shard(number) for number in range(5)) and not reader.fetch_shard(0)
    for number in range(5):
        name = reader.shard_name(number)
        assert reader.cache.path(name).read_bytes() == (corpus / name).read_bytes()
    assert read_all(pickle.loads(pickle.dumps(reader))) == whole


def test_announced_samples_are_one_request_each_and_cached_ones_none(
    s3: servers.Faults, s3_corpus: str, corpus: Path, tmp_path: Path
) -> None:
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    reader.fetch_shard(1)
    assert reader.read(0, 0) and reader.read(1, 0)  # the indices
    s3.requests.clear()
    reader.ahead([(0, 1), (1, 2), (0, 3), (0, 1)])
    for place in [(0, 3), (1, 2), (0, 1)]:
        assert reader.read(*place) == ShardReader(corpus).read(*place)
    assert len(s3.requests) == 2 and all("00000.tar" in path and asked for _, path, asked in s3.requests)


def test_faults_of_the_store_change_no_byte(s3: servers.Faults, s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    s3.unavailable = s3.cut = s3.reset = s3.slow = 0.15
    reader.ahead(PLACES)
    assert read_all(reader) == read_all(ShardReader(corpus))
    assert all(reader.fetch_shard(number) for number in range(5))
    assert read_all(reader) == read_all(ShardReader(corpus))
    assert all(s3.seen[fault] for fault in ("unavailable", "cut", "reset", "slow"))


@pytest.mark.parametrize(("fault", "reason"), [("unavailable", "Service Unavailable"), ("cut", ""), ("reset", "")])
def test_a_store_that_fails_for_good_is_one_line_with_the_object_and_no_secret(
    s3: servers.Faults, s3_corpus: str, tmp_path: Path, fault: str, reason: str
) -> None:
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    setattr(s3, fault, 1.0)
    with pytest.raises(DataError, match=rf"s3://bucket/some/corpus/0000\d.*cannot be read \(8 attempts.*{reason}") as caught:
        reader.read(2, 0)
    assert servers.SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_object_is_named_at_once(s3: servers.Faults, s3_corpus: str, tmp_path: Path) -> None:
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    s3.missing = ("00003.tar",)
    s3.requests.clear()
    with pytest.raises(DataError, match=r"s3://bucket/some/corpus/00003.tar does not exist"):
        reader.read(3, 1)
    assert len([path for _, path, _ in s3.requests if path.endswith("00003.tar")]) == 1
    with pytest.raises(DataError, match=r"bucket/nowhere/manifest.json does not exist"):
        StoreReader("s3://bucket/nowhere", tmp_path, 10**9)


def test_a_shard_of_another_size_is_named_before_training(s3: servers.Faults, corpus: Path, tmp_path: Path) -> None:
    import s3fs  # optional package

    url = servers.upload(corpus, "s3://bucket/short")
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.pipe("bucket/short/00001.tar", b"short")
    with pytest.raises(DataError, match=r"short/00001.tar has 5 bytes, the manifest says"):
        StoreReader(url, tmp_path, 10**9)
    system.rm("bucket/short/00001.tar")
    with pytest.raises(DataError, match=r"1 of 5 shards are missing in s3://bucket/short: 00001.tar"):
        StoreReader(url, tmp_path, 10**9)


def test_other_bytes_than_those_written_are_a_broken_sample(corpus: Path, s3: servers.Faults, tmp_path: Path) -> None:
    import s3fs  # optional package

    url = servers.upload(corpus, "s3://bucket/damaged")
    content = bytearray((corpus / "00000.tar").read_bytes())
    content[700] ^= 1
    s3fs.S3FileSystem(skip_instance_cache=True).pipe("bucket/damaged/00000.tar", bytes(content))
    reader = StoreReader(url, tmp_path, 10**9)
    assert not reader.fetch_shard(0)  # a whole shard that is not the manifest's never enters the cache
    with pytest.raises(BrokenSampleError, match="other bytes than written"):
        reader.read(0, 0)
    assert reader.read(0, 1) == ShardReader(corpus).read(0, 1)


def test_a_shard_that_the_disk_damages_is_fetched_again(s3_corpus: str, corpus: Path, tmp_path: Path) -> None:
    reader = StoreReader(s3_corpus, tmp_path, 10**9)
    assert reader.fetch_shard(0)
    path = reader.cache.path("00000.tar")
    path.write_bytes(bytes(path.stat().st_size))
    assert reader.read(0, 2) == ShardReader(corpus).read(0, 2) and not path.exists()


def test_a_web_server_with_ranges(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with servers.web_server(corpus.parent) as (url, faults):
        reader = StoreReader(f"{url}/corpus", tmp_path, 10**9)
        faults.unavailable = faults.cut = faults.reset = 0.15
        assert read_all(reader) == read_all(ShardReader(corpus))
        assert reader.fetch_shard(2)
        assert faults.seen["cut"] and any(asked for _, _, asked in faults.requests)
        faults.clear()
        faults.missing = ("00004.tar",)
        with pytest.raises(DataError, match=r"corpus/00004.tar does not exist"):
            reader.read(4, 0)
        reader.close()


@pytest.mark.parametrize(
    "url", ["s3://key:hush-hush@bucket/corpus", "https://user@host/corpus", "https://host/corpus?X-Amz-Signature=hush-hush"]
)
def test_credentials_in_a_url_are_refused_unnamed(url: str) -> None:
    with pytest.raises(ConfigError, match="credentials into the environment") as caught:
        Store(url)
    assert "hush" not in str(caught.value)


def test_texts_of_errors_are_one_line_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "hush-hush")
    monkeypatch.setenv("SOME_SETTING", "shown")
    error = OSError(5, "https://me:pass@host/x?sig=abc&more said hush-hush, shown\nand more")
    assert objects.public_text(error) == "OSError: EIO: [Errno 5] https://host/x said ***, shown"


def test_unknown_kinds_of_url_and_missing_packages_are_one_line() -> None:
    with pytest.raises(UserError, match="not a URL that fsspec knows"):
        Store("nonsense://host/corpus")
    with pytest.raises(UserError, match=r"pip install 'albef-ds\[gcs\]'"):
        Store("gs://bucket/corpus")
