"""A folder lists or counts every picture, and nothing beside it is left out in silence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from data_tools import readers
from data_tools.files.storage import ByteReader
from data_tools.readers.folders import OTHER_PICTURES
from tests.data_tools.readers.reading import read


def touch(root: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_every_ending_of_a_picture_is_listed_or_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "b.jfif", "c.avif", "d.heic", "e.jp2", "f.ppm", "g.svg", "h.EPS", "i.nef", "j.md", "._a.JPG")
    records, problems = read(f"x=folder:{tmp_path}")
    assert [record.id for record in records] == ["a.JPG", "b.jfif", "c.avif", "d.heic", "e.jp2", "f.ppm"]
    kinds = {f"file of another kind of picture ({ending})": 1 for ending in (".svg", ".eps", ".nef")}
    assert problems.counts == kinds | {"macOS metadata (._ file)": 1} and ".raw" in OTHER_PICTURES


def test_texts_of_any_case_and_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.jpg" for i in range(5)))
    (tmp_path / "0.TXT").write_bytes(b"\xef\xbb\xbfa cat\r\na\xe2\x80\xa8dog\n")
    (tmp_path / "1.Json").write_bytes(b'\xef\xbb\xbf{"captions": ["a bird"]}')
    (tmp_path / "2.txt").write_bytes(b"caf\xe9")
    touch(tmp_path, "3.txt", "3.json", "lost.txt", text="text")
    (tmp_path / "4.json").write_text('["a list"]')
    records, problems = read(f"x=folder:{tmp_path}")
    assert [record.captions for record in records] == [["a cat", "a dog"], ["a bird"], ["caf\ufffd"], ["text"], []]
    assert problems.counts == {
        "text that is not UTF-8": 1,
        "JSON beside a text, which alone is read": 1,
        "text without a picture": 1,
        "unreadable sidecar": 1,
    }


@pytest.mark.parametrize("kind", ["folder", "openclipart"])
def test_a_pipe_in_the_place_of_a_text_is_counted_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "png/0.png", "svg/1.svg")
    os.mkfifo(tmp_path / ("png/0.txt" if kind == "folder" else "svg/0.svg"))
    [record], problems = read(f"x={kind}:{tmp_path}/png")
    assert not record.captions and sum(problems.counts.values()) == 1


def test_readers_open_files_in_one_way() -> None:
    """`open_source` refuses pipes and devices, for which another way of opening would wait for ever."""
    other = re.compile(r"(?<![\w.])open\(|\.(read_bytes|read_text|open)\(")
    files = Path(readers.__file__).parent.glob("*.py")
    assert [f"{path.name}: {line}" for path in files for line in path.read_text().splitlines() if other.search(line)] == []


def test_linked_folders_are_walked_once_and_after_the_folder_itself(tmp_path: Path) -> None:
    touch(tmp_path, "in/b/1.jpg", "elsewhere/2.jpg", "elsewhere/deep/3.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "a")
    os.symlink(tmp_path / "in", tmp_path / "elsewhere" / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "in" / "dangling")
    records, problems = read(f"x=folder:{tmp_path}/in")
    assert [record.id for record in records] == ["b/1.jpg", "a/2.jpg", "a/deep/3.jpg"]
    assert [ByteReader().read(record.path) for record in records] == [b"x"] * 3
    assert problems.counts == {"linked folder that was walked before": 1}
