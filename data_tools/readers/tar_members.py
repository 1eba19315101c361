"""Lists the members of a tar by their place in the file. Nothing is extracted; what cannot be read is counted.

Names that are absolute or leave the folder by `..` are harmless here but indicate a bad tar: they are counted and left out.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from albef_ds.common.errors import DataError, UserError
from albef_ds.data.shards.strict_tar import TarFaultError, open_tar
from data_tools.files.storage import open_source
from data_tools.readers.source import Problems

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
TEXT_ENDINGS = (".txt", ".caption", ".text")
MAX_TEXT = 16 << 20
"""Bytes above which a text member is no caption."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_DAMAGED = "tar cut off or damaged"


class Member(NamedTuple):
    """A file in a tar: the place of its bytes, and the content of texts and JSON."""

    name: str
    offset: int
    size: int
    content: bytes = b""

    @property
    def ending(self) -> str:
        """The last extension in lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()


def members(part: str, problems: Problems) -> Iterator[Member]:
    """Yields the files of the tar `part`; hard and symbolic links stand for the files that they name.

    Counts what is left out: members of other types, sparse members, macOS's `._` files, unsafe names, links without a file in
    the tar, and everything behind a fault of the tar. Raises DataError if there is no such file, OSError if it cannot be read.
    """
    try:
        with open_source(part) as file:
            if file.read(6).startswith(_COMPRESSED):
                problems.add("compressed tar, in which no picture has a place: decompress it", part)
                return
            file.seek(0)
            yield from _members(file, problems)
    except FileNotFoundError:
        raise DataError(f"{part} does not exist: check the path") from None
    except TarFaultError as fault:
        problems.add("tar without its end mark: it ends early" if fault.at_end else _DAMAGED, f"{part}: {fault}")
    except (OSError, UserError):
        raise
    except Exception as error:  # tarfile raises what its parsing of damaged bytes comes upon
        problems.add(_DAMAGED, f"{part}: {error}")


def _members(file: IO[bytes], problems: Problems) -> Iterator[Member]:
    places: dict[str, tuple[int, int]] = {}
    with open_tar(file) as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every member
            place = _place(info, places, problems)
            if place is None:
                continue
            places[info.name] = place
            member = Member(info.name, *place)
            if member.ending in (*TEXT_ENDINGS, ".json"):
                if member.size > MAX_TEXT:
                    problems.add(f"text of more than {MAX_TEXT >> 20} MB", member.name)
                    continue
                member = member._replace(content=_content(file, member))
            yield member
        _check_rest(file, tar.offset, problems)


def _place(info: tarfile.TarInfo, places: dict[str, tuple[int, int]], problems: Problems) -> tuple[int, int] | None:
    """Offset and size of the member's bytes; None if it is no file to read, which is counted."""
    name = info.name
    if info.size < 0:
        raise TarFaultError("a header is damaged (negative size)")
    if info.isdir():
        return None
    if name.startswith("/") or ".." in name.split("/"):
        problems.add("unsafe member name", name)
    elif posixpath.basename(name).startswith("._"):
        problems.add("macOS metadata (._ member)", name)
    elif info.issparse():
        problems.add("sparse member", name)
    elif info.isreg():
        return info.offset_data, info.size
    elif info.islnk() or info.issym():
        link = info.linkname if info.islnk() else posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))
        if link in places:
            return places[link]
        problems.add("link to a file that is not before it in the tar", f"{name} -> {info.linkname}")
    else:
        problems.add("member that is no file", name)
    return None


def _content(file: IO[bytes], member: Member) -> bytes:
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) < member.size:
        raise TarFaultError(f"it ends early, inside {member.name}")
    return content


def _check_rest(file: IO[bytes], offset: int, problems: Problems) -> None:
    """Counts a tar that goes on after its end mark, such as one joined from two."""
    file.seek(offset)
    while rest := file.read(1 << 20):
        if rest.strip(b"\0"):
            problems.add("bytes after the tar's end mark, perhaps a second tar", f"after byte {offset}")
            return
