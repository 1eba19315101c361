"""The cache of a node stays within its bound, gives way by the known order, and survives kills."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from albef_ds.common.errors import MachineError
from albef_ds.data.store.cache import SUBFOLDER, NodeCache, default_folder


def put(cache: NodeCache, name: str, size: int, keep: list[str] | None = None, spare: int = 0) -> bool:
    with cache.reserved(name, size, keep, spare) as place:
        if place is None:
            return False
        assert cache.used() <= cache.max_bytes
        os.pwrite(place[0], b"x" * size, 0)
        cache.install(place[1], name)
    return True


def names(cache: NodeCache) -> set[str]:
    return {path.name for path in cache.corpus.iterdir()}


def test_a_file_without_room_is_refused_and_a_shorter_list_gives_way_from_its_end(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, "a", 100)
    assert put(cache, "0.tar", 40) and put(cache, "1.tar", 40) and not put(cache, "2.tar", 40)
    assert not put(cache, "2.tar", 40, keep=["0.tar", "1.tar", "2.tar"])  # both are needed sooner
    assert put(cache, "2.tar", 40, keep=["1.tar", "2.tar", "0.tar"]) and names(cache) == {"1.tar", "2.tar"}
    assert not put(cache, "3.tar", 101, keep=["3.tar"]) and names(cache) == {"1.tar", "2.tar"}  # nothing is evicted in vain
    assert not put(cache, "3.tar", 90, keep=["3.tar"], spare=20)
    assert put(cache, "3.tar", 90, keep=["3.tar"]) and names(cache) == {"3.tar"}
    assert not put(cache, "3.tar", 1)  # it is there


def test_unfinished_files_count_and_those_of_killed_processes_are_removed(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, "a", 100)
    with cache.reserved("0.tar", 60):
        assert not put(cache, "1.tar", 60) and not put(cache, "0.tar", 10)
    ready, ended = os.pipe()
    child = os.fork()
    if not child:
        with cache.reserved("0.tar", 60):
            os.write(ended, b"1")
            signal.pause()
    assert os.read(ready, 1)
    assert not put(cache, "1.tar", 60)  # its process lives
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert cache.used() == 60
    assert put(cache, "1.tar", 60) and names(cache) == {"1.tar"}


def test_corpora_that_a_run_reads_are_left_alone_and_others_give_way_first(tmp_path: Path) -> None:
    one, other = NodeCache(tmp_path, "a", 100), NodeCache(tmp_path, "b", 100)
    assert put(one, "0.tar", 60)
    with one.leading() as leads, one.leading() as twice:
        assert leads and not twice
        assert not put(other, "0.tar", 60, keep=["0.tar"])
    assert put(other, "0.tar", 60, keep=["0.tar"]) and names(one) == set()


def test_files_beside_the_cache_are_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "0.tar"
    mine.parent.mkdir()
    mine.write_bytes(b"x" * 1000)
    cache = NodeCache(tmp_path, "a", 100)
    assert put(cache, "0.tar", 100, keep=["0.tar"]) and mine.stat().st_size == 1000
    assert {path.name for path in tmp_path.iterdir()} == {"mine", SUBFOLDER}


def test_many_writers_at_once_stay_within_the_bound(tmp_path: Path) -> None:
    cache, most = NodeCache(tmp_path, "a", 1000), 0
    files = [f"{number}.tar" for number in range(40)]

    def work(first: int) -> None:
        nonlocal most
        for name in files[first::4]:
            put(cache, name, 130, keep=files[:20])
            most = max(most, cache.used())

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most <= 1000 and cache.used() <= 1000


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"data.cache .*file cannot be used"):
        NodeCache(tmp_path / "file", "a", 100)


def test_only_its_owner_enters_the_folder_that_everybody_can_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALBEF_SCRATCH", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = default_folder()
    folder.chmod(0o777)
    assert default_folder() == folder and folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(MachineError, match=r"is not a folder of your own: give the cache another one by data\.cache"):
        default_folder()
