"""The shard format, which `data_tools` writes and `albef_ds.data` reads; they share nothing else.

A corpus is a folder:

    manifest.json        counts, sizes and checksums per shard, and the sources of the corpus
    00000.tar            USTAR; per sample `KEY.EXT` (image bytes, EXT in IMAGE_EXTENSIONS) then `KEY.json`
    00000.index.npy      int64 (num_samples, 6): image offset, image size, JSON offset, JSON size in the tar, and the bits of the
                         checksums of image and JSON (xxh3 of 64 bits); corpora written before have no checksums, (num_samples, 4)

KEY is the sample's zero-padded number in the corpus, so keys are unique, without dots, and sorted. The JSON member has `captions`
(list of str, never empty), `image_id` (str: same image, same id), `source` (str), and possibly more. The tars are plain
WebDataset: GNU tar and the `webdataset` library read them.

This module only defines the layout. It neither decodes images nor chooses an order.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.atomic_files import write_json
from albef_ds.common.errors import DataError

FORMAT = "albef-ds-shards/1"
MANIFEST_NAME = "manifest.json"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# fmt: off
PICTURE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".mpo", ".jp2", ".j2k",
    ".j2c", ".jpx", ".avif", ".avifs", ".heic", ".heif", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)
# fmt: on
"""Endings, in lower case, of the files that sources list as images. Whether one can be decoded is found when it is read."""
ARRAY_FAULTS = (OSError, ValueError, LookupError, EOFError, SyntaxError, OverflowError, MemoryError, TokenError, BadZipFile)
"""What numpy raises for a damaged `.npy` file."""
KEY_DIGITS = 9
BLOCK = 512  # bytes of a tar block


def shard_name(number: int) -> str:
    """Returns the file name of shard `number`."""
    return f"{number:05d}.tar"


def index_name(shard: str) -> str:
    """Returns the file name of the member offsets of `shard`."""
    return shard.removesuffix(".tar") + ".index.npy"


def sample_key(number: int) -> str:
    """Returns the key of sample `number` of the corpus."""
    return f"{number:0{KEY_DIGITS}d}"


@dataclass(frozen=True)
class ShardEntry:
    """One tar: its name, its sample count, its size in bytes and its `xxh3_128` hex digest; `index_checksum` likewise."""

    name: str
    num_samples: int
    num_bytes: int
    checksum: str
    index_checksum: str

    @classmethod
    def checked(cls, raw: Any) -> ShardEntry:
        """Returns the entry in a JSON object. Raises `ValueError` for a missing or unknown field, or one of another type."""
        if not isinstance(raw, dict) or raw.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(f"a shard has other fields than {', '.join(cls.__dataclass_fields__)}")
        for name in ("name", "checksum", "index_checksum"):
            if not isinstance(raw[name], str) or "/" in raw[name] or "\0" in raw[name] or not raw[name]:
                raise ValueError(f"`{name}` of a shard is {raw[name]!r}")
        for name in ("num_samples", "num_bytes"):
            if isinstance(raw[name], bool) or not isinstance(raw[name], int) or raw[name] < 0:
                raise ValueError(f"`{name}` of a shard is {raw[name]!r}")
        return cls(**raw)


@dataclass(frozen=True)
class Manifest:
    """The shards of a corpus. `info` is free-form: sources, seed, licence, tool version, counts per reason."""

    shards: tuple[ShardEntry, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """Number of samples over all shards."""
        return sum(shard.num_samples for shard in self.shards)

    def save(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`, atomically and synced to disk, with a checksum of its own content."""
        shards = [asdict(shard) for shard in self.shards]
        content = {"format": FORMAT, "num_samples": self.num_samples, "shards": shards, "info": self.info}
        content["checksum"] = _content_checksum(content)
        write_json(folder / MANIFEST_NAME, content, durable=True, indent=1, ensure_ascii=False)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads and checks `folder/manifest.json`.

        Raises:
            DataError: the file is missing, not JSON, of another format, lists no samples, or its counts disagree.
        """
        path = folder / MANIFEST_NAME
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: give a folder written by `albef-data shard`") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}): write the corpus again or run `albef-data verify`") from None
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, path: str) -> Manifest:
        """Returns the manifest in the bytes of the file `path`, which errors name. Raises `DataError` as `load`."""
        try:
            raw = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} cannot be read ({error}): write the corpus again or run `albef-data verify`") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise DataError(f"{path} is not a manifest of format {FORMAT}: write the corpus with this version of albef-data")
        try:
            shards = tuple(ShardEntry.checked(entry) for entry in raw["shards"])
            manifest = cls(shards=shards, info=dict(raw.get("info", {})))
            if len({shard.name for shard in shards}) != len(shards):
                raise ValueError("two shards have one name")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} lacks or misnames a field ({error}): write the corpus again") from None
        if "checksum" in raw and raw["checksum"] != _content_checksum(raw):
            raise DataError(
                f"{path} is damaged (its checksum differs): copy it again; if you have edited it, remove `checksum` from it"
            )
        if manifest.num_samples == 0:
            raise DataError(f"{path} lists no samples: the corpus is empty, check what `albef-data` kept")
        if manifest.num_samples != raw.get("num_samples"):
            raise DataError(
                f"{path} says {raw.get('num_samples')} samples but its shards hold {manifest.num_samples}: write the corpus again"
            )
        return manifest


def _content_checksum(content: dict[str, Any]) -> str:
    """Returns the checksum of a manifest's other fields. Manifests of older versions have none."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return xxhash.xxh3_128_hexdigest(json.dumps(rest, sort_keys=True).encode())


checksum = xxhash.xxh3_64_intdigest
"""The 64 bits by which the reader recognises the bytes of a member."""
WITH_CHECKSUMS = 6
"""Columns of an index that holds checksums."""


def load_index(folder: Path, shard: ShardEntry) -> NDArray[np.int64]:
    """Returns the member offsets of `shard`, int64 (num_samples, 4). Raises as `load_members`."""
    return load_members(folder, shard)[:, :4]


def load_members(folder: Path, shard: ShardEntry) -> NDArray[np.int64]:
    """Returns the index of `shard`, checked against the manifest.

    Its columns are those of `load_index`, then the bits of `checksum` of image and JSON: int64 (num_samples, WITH_CHECKSUMS), or
    (num_samples, 4) in an index that was written before it held them.

    Raises:
        DataError: the file is missing or damaged, or does not have the manifest's checksum.
    """
    path = folder / index_name(shard.name)
    rebuild = f"rebuild it with `albef-data index {folder}`"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: copy it again or {rebuild}") from None
    except OSError as error:
        raise DataError(f"{path} is damaged ({error}): {rebuild}") from None
    return parse_members(content, shard, str(path), rebuild)


def parse_members(content: bytes, shard: ShardEntry, path: str, rebuild: str) -> NDArray[np.int64]:
    """Returns the index in the bytes of the file `path`, as `load_members`; errors name `path` and the remedy `rebuild`."""
    if xxhash.xxh3_128_hexdigest(content) != shard.index_checksum:
        raise DataError(f"{path} is damaged (its checksum differs from the manifest's): {rebuild}")
    try:
        index: NDArray[np.int64] = np.load(io.BytesIO(content), allow_pickle=False)
    except ARRAY_FAULTS as error:
        raise DataError(f"{path} is damaged ({error}): {rebuild}") from None
    if index.dtype != np.int64 or index.shape not in ((shard.num_samples, 4), (shard.num_samples, WITH_CHECKSUMS)):
        raise DataError(f"{path} has shape {index.shape}, not ({shard.num_samples}, {WITH_CHECKSUMS}): {rebuild}")
    offsets = index[:, :4]
    if (offsets < 0).any() or (offsets[:, 0::2] + offsets[:, 1::2] > shard.num_bytes).any():
        raise DataError(f"{path} points outside {shard.name}: {rebuild}")
    return index
