"""The emoji corpus that ships with the repository: checked, and unpacked into a cache on first use."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import tarfile
from pathlib import Path

from albef_ds.common.atomic_files import atomic_path
from albef_ds.common.errors import DataError

PACKED = Path(__file__).resolve().parents[3] / "corpora" / "emoji"
"""Where a checkout holds the compressed splits; an installed wheel has none."""
CHECKSUMS = "checksums.json"
_LARGEST = 1 << 28  # bytes of one unpacked file: far above ours, far below what would fill a disk


def emoji_corpus(cache_dir: Path, packed: Path = PACKED) -> Path:
    """A folder with `train`, `val`, `test` and `flags`, each a corpus of `albef_ds.data.shards.format`.

    Unpacks once per content into `cache_dir`, under a temporary name and then renamed, so it is whole or not there;
    processes that do so at the same time do not disturb each other.

    Raises:
        DataError: the compressed files are not there, differ from their checksums, or hold an unexpected member.
    """
    try:
        checksums = json.loads((packed / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the emoji corpus is not in {packed} ({error}): run from a checkout of the repository, or build it with "
            "`python -m data_tools.emoji`"
        ) from None
    name = "emoji-" + hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()[:12]
    target = Path(cache_dir) / name
    if target.is_dir():
        return target
    Path(cache_dir).mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(target) as scratch:
            scratch.mkdir()
            for file, checksum in sorted(checksums.items()):
                _unpack(packed / file, checksum, scratch)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise
    return target


def _unpack(archive: Path, checksum: str, folder: Path) -> None:
    """Unpack `SPLIT/FILE` members of `archive` below `folder`; anything else is refused."""
    split = archive.name.removesuffix(".tar.xz")
    try:
        if hashlib.sha256(archive.read_bytes()).hexdigest() != checksum:
            raise DataError(f"{archive} differs from its checksum: restore it with `git checkout -- {archive.name}`")
        (folder / split).mkdir()
        with tarfile.open(archive, "r:xz") as members:
            for member in members:
                place, _, name = member.name.partition("/")
                if (
                    not member.isfile()
                    or place != split
                    or not name
                    or name in (".", "..")
                    or "/" in name
                    or member.size > _LARGEST
                ):
                    raise DataError(f"{archive} holds {member.name!r}, which is no file of a corpus: do not use it")
                source = members.extractfile(member)
                assert source is not None
                with open(folder / split / name, "xb") as file:
                    shutil.copyfileobj(source, file)
                    file.flush()
                    os.fsync(file.fileno())
    except (OSError, tarfile.TarError, lzma.LZMAError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}): restore the file, or free the disk") from None
