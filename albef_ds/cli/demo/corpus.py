"""Checks the emoji corpus that ships with the repository and unpacks it into a cache on first use."""

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
"""Folder of the compressed splits in a checkout; an installed wheel has none."""
CHECKSUMS = "checksums.json"
_LARGEST = 1 << 28  # bytes of one unpacked file: far above ours, far too small to fill a disk


def emoji_corpus(cache_dir: Path, packed: Path = PACKED) -> Path:
    """A folder below `cache_dir` with `train`, `val`, `test` and `flags`, each a corpus of `albef_ds.data.shards.format`.

    Unpacks once per content, under a temporary name that is then renamed, so the folder is never incomplete and several
    processes may call it at the same time.

    Raises:
        DataError: compressed files are missing, differ from their checksums, or hold an unexpected member.
    """
    try:
        checksums = json.loads((packed / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the emoji corpus is not in {packed} ({error}): run from a checkout of the repository, or build it with "
            "`python -m data_tools.emoji`"
        ) from None
    target = cache_dir / f"emoji-{hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()[:12]}"
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(target) as scratch:
            scratch.mkdir()
            for file, checksum in sorted(checksums.items()):
                _unpack(packed / file, checksum, scratch)
    except OSError:
        if not target.is_dir():  # otherwise another process has written the same content first
            raise
    return target


def _unpack(archive: Path, checksum: str, folder: Path) -> None:
    """Unpacks the `SPLIT/FILE` members of `archive` below `folder`. Raises `DataError` for any other member."""
    split = archive.name.removesuffix(".tar.xz")
    try:
        if hashlib.sha256(archive.read_bytes()).hexdigest() != checksum:
            raise DataError(f"{archive} differs from its checksum: restore it with `git checkout -- {archive.name}`")
        (folder / split).mkdir()
        with tarfile.open(archive, "r:xz") as members:
            for member in members:
                place, _, name = member.name.partition("/")
                bad_name = place != split or name in ("", ".", "..") or "/" in name
                if bad_name or not member.isfile() or member.size > _LARGEST:
                    raise DataError(f"{archive} holds {member.name!r}, which is not a file of a corpus: do not use it")
                source = members.extractfile(member)
                assert source is not None
                with open(folder / split / name, "xb") as file:
                    shutil.copyfileobj(source, file)
                    file.flush()
                    os.fsync(file.fileno())
    except (OSError, tarfile.TarError, lzma.LZMAError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}): restore the file, or free the disk") from None
