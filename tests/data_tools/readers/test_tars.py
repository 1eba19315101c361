"""Tars as the world writes them: what webdataset reads, we read, and what cannot be read is counted."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from webdataset.tariterators import tarfile_to_samples

from data_tools.files.storage import ByteReader
from tests.data_tools.readers.reading import read
from tests.data_tools.sample_images import tar_of

CUT = "tar cut off or damaged"
NO_END = "tar without its end mark: it ends early"


def pairs(count: int = 4) -> list[tuple[str, bytes]]:
    """The members of `count` samples."""
    return [(f"{i}.{e}", c) for i in range(count) for e, c in (("jpg", bytes([i]) * 700), ("txt", f"picture {i}".encode()))]


def ours(path: Path) -> tuple[dict[bytes, str], dict[str, int]]:
    """Image bytes to caption, and the counts of what was left out."""
    records, problems = read(f"x=webdataset:{path}")
    reader = ByteReader()
    found = {reader.read(r.path, r.offset, r.size): "|".join(r.captions) for r in records if not r.missing}
    return found, dict(problems.counts)


def theirs(path: Path) -> dict[bytes, str]:
    """The same by the webdataset library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(tarfile_to_samples()([{"url": str(path)}]))
    found = {}
    for sample in samples:
        image = next((value for name, value in sample.items() if name.rpartition(".")[2] in ("jpg", "png")), None)
        text = next((value for name, value in sample.items() if name.rpartition(".")[2] == "txt"), None)
        if image is not None and text is not None:
            found[image] = " ".join(text.decode().split())
    return found


def header_of(path: Path, name: str) -> int:
    """Where the header of a member begins."""
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def with_damaged_header(path: Path) -> None:
    tar_of(path, pairs())
    content = bytearray(path.read_bytes())
    content[header_of(path, "2.jpg") + 148] ^= 1
    path.write_bytes(content)


def cut_between_members(path: Path) -> None:
    tar_of(path, pairs())
    path.write_bytes(path.read_bytes()[: header_of(path, "2.jpg")])


def cut_inside_a_header(path: Path) -> None:
    tar_of(path, pairs())
    path.write_bytes(path.read_bytes()[: header_of(path, "2.jpg") + 100])


def cut_inside_a_caption(path: Path) -> None:
    tar_of(path, pairs())
    path.write_bytes(path.read_bytes()[: header_of(path, "1.txt") + 515])


def joined_from_two(path: Path) -> None:
    tar_of(path, pairs(2))
    path.write_bytes(2 * path.read_bytes())


def compressed(path: Path) -> None:
    tar_of(path, pairs())
    path.write_bytes(gzip.compress(path.read_bytes()))


def negative_size(path: Path) -> None:
    tar_of(path, pairs())
    content = bytearray(path.read_bytes())
    offset = header_of(path, "1.jpg")
    content[offset + 124 : offset + 136] = b"\xff" * 8 + (-1536).to_bytes(4, "big", signed=True)  # base 256
    content[offset + 148 : offset + 156] = b" " * 8
    content[offset + 148 : offset + 156] = b"%06o\0 " % sum(content[offset : offset + 512])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason", "whole"),
    [
        (with_damaged_header, CUT, 2),
        (cut_between_members, NO_END, 2),
        (cut_inside_a_header, CUT, 2),
        (cut_inside_a_caption, CUT, 1),
        (negative_size, CUT, 1),
        (joined_from_two, "bytes after the tar's end mark, perhaps a second tar", 2),
        (compressed, "compressed tar, in which no picture has a place: decompress it", 0),
    ],
)
def test_a_tar_that_is_not_whole_is_counted_and_its_whole_members_are_read(
    tmp_path: Path, damage: Callable[[Path], None], reason: str, whole: int
) -> None:
    damage(tmp_path / "t.tar")
    found, counts = ours(tmp_path / "t.tar")
    assert list(found.values()) == [f"picture {i}" for i in range(whole)]
    assert counts == {reason: 1}


def test_a_compressed_tar_in_a_folder_is_counted(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", pairs(1))
    compressed(tmp_path / "1.tar.gz")
    found, counts = ours(tmp_path)
    assert len(found) == 1 and sum(counts.values()) == 1


def from_a_mac(path: Path) -> None:
    tar_of(path, [member for name, content in pairs() for member in ((f"._{name}", bytes(99)), (name, content))])


def upper_case(path: Path) -> None:
    tar_of(path, [(name.upper(), content) for name, content in pairs()])


def compound(path: Path) -> None:
    tar_of(path, [(name.replace(".jpg", ".image.jpg").replace(".txt", ".alt.txt"), content) for name, content in pairs()])


def image_of_a_bare_caption(path: Path) -> None:
    tar_of(path, [(name.replace(".jpg", ".rgb.png"), content) for name, content in pairs()])


def line_breaks(path: Path) -> None:
    tar_of(path, [(name, content.replace(b" ", b"\n")) for name, content in pairs()])


def folders_and_other_members(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("d", "d/e"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name, content in [*pairs(), ("3.cls", b"7"), ("readme.md", b"text")]:
            info = tarfile.TarInfo(f"d/e/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def pax_headers(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in pairs():
            info = tarfile.TarInfo(f"{'long/' * 40}ä/{name}")
            info.size, info.mtime = len(content), 1.5  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(content))


def written_by_webdataset(path: Path) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(3):
            writer.write({"__key__": f"k{i}", "jpg": bytes([i]) * 90, "txt": f"picture {i}", "json": {"caption": "other"}})


@pytest.mark.parametrize(
    "write",
    [
        from_a_mac, upper_case, compound, image_of_a_bare_caption, line_breaks, folders_and_other_members, pax_headers,
        written_by_webdataset,
    ],
)  # fmt: skip
def test_the_pairs_are_those_of_webdataset(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "t.tar")
    found, _ = ours(tmp_path / "t.tar")
    assert found == theirs(tmp_path / "t.tar") and len(found) >= 3


def test_links_stand_for_the_files_that_they_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in [("a/0.jpg", b"picture"), ("a/0.txt", b"a caption")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind, link in (
            ("a/1.jpg", tarfile.LNKTYPE, "a/0.jpg"), ("a/1.txt", tarfile.SYMTYPE, "0.txt"),
            ("a/2.jpg", tarfile.LNKTYPE, "gone.jpg"), ("pipe", tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
    records, problems = read(f"x=webdataset:{tmp_path}/t.tar")
    assert [(r.id, r.captions, ByteReader().read(r.path, r.offset, r.size)) for r in records] == [
        (f"t.tar!a/{i}.jpg", ["a caption"], b"picture") for i in range(2)
    ]
    assert problems.counts == {"link to a file that is not before it in the tar": 1, "member that is no file": 1}


def test_a_sparse_member_is_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in (("0.jpg", {}), ("1.jpg", {"GNU.sparse.map": "0,512", "GNU.sparse.size": "512"})):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 512, headers
            tar.addfile(info, io.BytesIO(bytes(512)))
    records, problems = read(f"x=webdataset:{tmp_path}/t.tar")
    assert [r.id for r in records] == ["t.tar!0.jpg"] and problems.counts == {"sparse member": 1}


def test_keys_with_dots_stay_apart(tmp_path: Path) -> None:
    members = [(f"a.{i}.{e}", f"{i}{e}".encode()) for i in range(3) for e in ("jpg", "txt")]
    tar_of(tmp_path / "t.tar", [*members, ("b.1.jpg", b"alone"), ("b.2.txt", b"not its caption")])
    found, counts = ours(tmp_path / "t.tar")
    assert found == {f"{i}jpg".encode(): f"{i}txt" for i in range(3)} and counts == {"key without a picture": 1}


def test_captions_that_are_not_utf8_or_too_long_or_no_json_are_counted(tmp_path: Path) -> None:
    members = [
        ("0.jpg", b"a"),
        ("0.txt", b"caf\xe9"),
        ("1.jpg", b"b"),
        ("1.json", b"[1]"),
        ("2.jpg", b"c"),
        ("2.txt", bytes(17 << 20)),
    ]
    tar_of(tmp_path / "t.tar", [*members, ("3.jpg", b"d"), ("3.json", b"[" * 100_000)])
    found, counts = ours(tmp_path / "t.tar")
    assert found == {b"a": "caf\ufffd"}
    assert counts == {"text that is not UTF-8": 1, "broken JSON member": 2, "text of more than 16 MB": 1}
