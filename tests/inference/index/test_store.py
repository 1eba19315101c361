"""The file of features stays whole whatever happens to the processes that write it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from albef_ds.common import atomic_files
from albef_ds.inference.index import store
from albef_ds.inference.index.store import FeatureStore

DIM = 5


def _features(names: list[str]) -> NDArray[np.float32]:
    """What the features of these names must be."""
    return np.stack([np.random.default_rng(xxh3_64_intdigest(name.encode())).random(DIM, np.float32) for name in names])


def _append(opened: FeatureStore, names: list[str], stamp: str = "1") -> None:
    opened.append(names, [stamp] * len(names), _features(names))


def _names(path: Path, stamp: str = "1") -> set[str]:
    """The images of the files at `path`, each of which must have its own features."""
    opened = FeatureStore(path, "model", DIM)
    table = opened.table({name: stamp for name in opened.stamps})
    assert not table.names or np.array_equal(table.features[table.rows], _features(list(table.names)))
    return set(table.names)


def _process(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def _endless(path: Path, who: str) -> None:
    """Appends, with new stamps for some images and copies of the files now and then, until it is killed."""
    opened, number = FeatureStore(path, "model", DIM), 0
    while True:
        _append(opened, [f"{who}{number + place}" for place in range(number % 4 + 1)])
        _append(opened, ["again"])
        number += 1
        if number % 5 == 0:
            seen = opened.stamps
            opened.tidy(seen, seen)


def test_a_second_process_sees_what_the_first_has_added(tmp_path: Path) -> None:
    first, second = (FeatureStore(tmp_path / "index", "model", DIM) for _ in range(2))
    _append(first, ["b", "a"])
    before = first.table({"a": "1", "b": "1", "c": "1"})
    _append(second, ["c"])
    first.refresh()
    after = first.table({"a": "1", "b": "other", "c": "1"})
    assert (before.names, after.names) == (("a", "b"), ("a", "c"))
    assert np.array_equal(before.features[before.rows], _features(["a", "b"]))
    assert before.places.tolist() == [1, 0] and after.places.tolist() == [-1, 0, 1]


def test_new_images_are_appended_and_nothing_else_is_written(tmp_path: Path) -> None:
    opened = FeatureStore(tmp_path / "index", "model", DIM)
    _append(opened, [f"x{number}" for number in range(500)])
    [rows] = tmp_path.glob("*.rows")
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (rows, tmp_path / "index")}
    _append(opened, ["y"])
    for path, (inode, content) in before.items():
        assert path.stat().st_ino == inode and path.read_bytes().startswith(content)
    assert rows.stat().st_size == 501 * 4 * DIM


@pytest.mark.parametrize("turn", range(4))
def test_processes_that_are_killed_leave_a_whole_index(turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SPARE", 8)
    path, known, alive = tmp_path / "index", set[str](), {}
    generator = np.random.default_rng(turn)
    try:
        for kill in range(10):
            for who in ("p", "q"):
                if who not in alive:
                    alive[who] = _process(lambda who=f"{who}{kill}-": _endless(path, who))  # type: ignore[misc]
            time.sleep(float(generator.random()) * 0.03)
            end = alive.pop("pq"[kill % 2])
            os.kill(end, signal.SIGKILL)
            os.waitpid(end, 0)
            found = _names(path)
            assert known <= found
            known = found
    finally:
        for process in alive.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    assert len(known) > 10
    _append(FeatureStore(path, "model", DIM), ["last"])
    assert _names(path) == known | {"last"} | _names(path)


@pytest.mark.parametrize("call", range(7))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_kill_inside_any_write_loses_only_that_batch(
    call: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    monkeypatch.setattr(store, "_SPARE", 2)
    _append(FeatureStore(path, "model", DIM), ["a", "b"])

    def killed() -> None:
        calls, write, replace = iter(range(1000)), os.pwrite, os.replace

        def torn(descriptor: int, content: memoryview, place: int) -> int:
            if next(calls) == call:
                write(descriptor, content[: int(len(content) * share)], place)
                os.kill(os.getpid(), signal.SIGKILL)
            return write(descriptor, content, place)

        def ended(source: Path, target: Path) -> None:
            if next(calls) == call:
                if share == 1.0:
                    replace(source, target)
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        monkeypatch.setattr(os, "pwrite", torn)
        monkeypatch.setattr(os, "replace", ended)
        opened = FeatureStore(path, "model", DIM)
        _append(opened, ["c"])
        for _ in range(2):
            _append(opened, ["a", "b"])
        opened.tidy({}, {})
        _append(opened, ["d"])
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(_process(killed), 0)
    after = {"a", "b", "c"} if call > 1 or (call == 1 and share == 1.0) else {"a", "b"}
    assert _names(path) == after
    _append(FeatureStore(path, "model", DIM), ["e"])
    assert _names(path) == after | {"e"}
    opened = FeatureStore(path, "model", DIM)
    opened.tidy(opened.stamps, {"e": "1"})
    assert _names(path) == ({"e"} if len(after) > 1 else after | {"e"}) and len(list(tmp_path.glob("*.rows"))) == 1


def test_without_locks_a_batch_that_was_written_over_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index"
    _append(FeatureStore(path, "model", DIM), ["a"])
    first, second = (FeatureStore(path, "model", DIM) for _ in range(2))
    monkeypatch.setattr(first, "refresh", lambda: None)  # it does not see what the other one adds
    _append(second, ["b", "c"])
    _append(first, ["d"])
    assert _names(path) <= {"a", "b", "c", "d"} and "a" in _names(path)


@pytest.mark.parametrize("what", ["log", "rows"])
def test_damage_costs_the_batches_that_it_hits(what: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    for name in ("a", "b", "c"):
        _append(FeatureStore(path, "model", DIM), [name])
    [rows] = tmp_path.glob("*.rows")
    damaged = path if what == "log" else rows
    whole = damaged.read_bytes()
    for place in range(0, len(whole), 7 if what == "log" else 1):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = _names(path)
        assert len(found) in (2, 1, 0) and (what == "log" or len(found) == 2)
    for size in range(0, len(whole), 11):
        damaged.write_bytes(whole[:size])
        _names(path)
    damaged.write_bytes(b"")
    _append(FeatureStore(path, "model", DIM), ["d"])
    assert "d" in _names(path)
    damaged.unlink()
    _append(FeatureStore(path, "model", DIM), ["f"])
    assert "f" in _names(path)


def test_another_model_takes_the_files_over_and_the_first_one_keeps_what_it_has(tmp_path: Path) -> None:
    first = FeatureStore(tmp_path / "index", "model", DIM)
    _append(first, ["a"])
    other = FeatureStore(tmp_path / "index", "other", DIM)
    assert other.stamps == {}
    _append(other, ["b"])
    assert _names(tmp_path / "index") == set()
    _append(first, ["c"])
    assert _names(tmp_path / "index") == {"a", "c"}
    assert len(list(tmp_path.glob("*.rows"))) == 1


def test_files_are_copied_when_most_rows_are_unwanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SPARE", 4)
    monkeypatch.setattr(store, "_COPIED", 2)
    opened = FeatureStore(tmp_path / "index", "model", DIM)
    _append(opened, [f"x{number}" for number in range(10)])
    table = opened.table(opened.stamps)
    seen = opened.stamps
    opened.tidy(seen, {f"x{number}": "1" for number in range(5)})
    assert len(_names(tmp_path / "index")) == 10, "half of them are wanted"
    _append(FeatureStore(tmp_path / "index", "model", DIM), ["later"])
    opened.tidy(seen, {f"x{number}": "1" for number in (1, 3, 5)})
    assert _names(tmp_path / "index") == {"x1", "x3", "x5", "later"}, "what another one has added since is kept"
    assert np.array_equal(table.features[table.rows], _features(list(table.names))), "a table is never changed"


def test_names_that_are_no_utf8_and_odd_index_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "in[d]ex*"
    name = os.fsdecode(b"\xff\n\r.jpg")
    _append(FeatureStore(path, "model", DIM), ["a"])
    opened = FeatureStore(path, "model", DIM)
    opened.append([name], ["1"], _features(["x"]))
    assert set(FeatureStore(path, "model", DIM).stamps) == {"a", name}


def test_a_disk_that_takes_nothing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FeatureStore(tmp_path / "index", "model", DIM)
    _append(opened, ["a"])

    def full(*given: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(atomic_files.MachineError, match=r"cannot be written \(No space left"):
        _append(opened, ["b"])
    monkeypatch.undo()
    assert _names(tmp_path / "index") == {"a"}


def test_a_log_that_names_another_file_or_has_another_format_is_none(tmp_path: Path) -> None:
    path, photo = tmp_path / "index", tmp_path / "photo.jpg"
    photo.write_bytes(b"the user's")
    _append(FeatureStore(path, "model", DIM), ["a"])
    header = store._described(path.read_bytes().splitlines(keepends=True)[0])
    assert header is not None
    for change in ({"rows": "photo.jpg"}, {"rows": "index.x/../y.rows"}, {"albef_index": 3}, {"rows": None}):
        path.write_bytes(store._line(header | change))
        opened = FeatureStore(path, "model", DIM)
        assert not opened.stamps
        _append(opened, ["b"])
        assert _names(path) == {"b"} and photo.read_bytes() == b"the user's"
    path.write_bytes(store._line(["no", "header"]))  # type: ignore[arg-type]
    assert not _names(path)
