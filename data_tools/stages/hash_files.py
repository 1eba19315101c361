"""Hash files: Parquet files that identify images without holding them, and so can be shared.

One row per image: `set`, `id`, `image_id`, byte and pixel hashes, perceptual hash, variance, colours. Written for evaluation
sets (`albef-data hashes`) and beside every corpus (`fingerprints.parquet`), so that later sources can be compared with it.
The file's metadata hold a digest of its rows, so that a damaged file is not used; files of older versions have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.content.images import COLOUR_BYTES
from data_tools.files.storage import open_source, save_atomically
from data_tools.readers.source import NO_CAPTION
from data_tools.stages.filter import BROKEN
from data_tools.stages.scan_results import Columns, colour_array

FINGERPRINTS_NAME = "fingerprints.parquet"
SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("id", pa.string()),
        ("image_id", pa.string()),
        *((name, pa.uint64()) for name in ("bytes_hi", "bytes_lo", "pixels_hi", "pixels_lo", "phash")),
        ("variance", pa.float32()),
        ("colours", pa.binary(COLOUR_BYTES)),
    ]
)
_DIGEST = "albef-data digest"
_NUMBERS = ["bytes_hi", "bytes_lo", "pixels_hi", "pixels_lo", "phash", "variance"]


@dataclass(frozen=True)
class HashSet:
    """The N images of one hash file; `numbers` has the numeric columns by name."""

    name: str
    ids: pa.ChunkedArray
    numbers: dict[str, NDArray[Any]]
    colours: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)


def save_hashes(path: Path, columns: Columns, keep: NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Writes the hash file of the rows in `keep` (default: all that were decoded, with or without captions).

    Returns the counts `written` and `left_out`. Raises DataError if no row has an image.
    """

    def tables() -> Iterator[pa.Table]:
        for chunk, scanned in columns.tables(["status", *_NUMBERS, "colours"]):
            listed = columns.catalog.read(chunk, ["id", "image_id"])
            good = pc.is_in(scanned["status"].cast(pa.string()), pa.array(["", NO_CAPTION])).to_numpy()
            if keep is not None:
                good &= keep[chunk.first_row : chunk.first_row + chunk.num_rows]
            rows = pa.array(np.flatnonzero(good))
            table = scanned.select([*_NUMBERS, "colours"]).take(rows)
            listed = listed.take(rows).add_column(0, "set", pa.array([chunk.source] * len(rows), pa.string()))
            yield pa.table({**{n: listed[n] for n in listed.column_names}, **{n: table[n] for n in table.column_names}})

    written = write_hashes(path, tables())
    if written == 0:
        path.unlink()
        raise DataError(f"no image could be read for {path}: check the source (statuses {', '.join(BROKEN)} or missing)")
    return {"written": written, "left_out": columns.num_rows - written}


def write_hashes(path: Path, tables: Iterable[pa.Table]) -> int:
    """Writes the rows of `tables` as one hash file, with their digest; returns the number of rows."""
    digest = _Digest()

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for table in tables:
                table = table.select(SCHEMA.names).cast(SCHEMA)
                digest.add(table)
                writer.write_table(table)
            if hasattr(writer, "add_key_value_metadata"):  # pyarrow 15 has no such method, and its files no digest
                writer.add_key_value_metadata({_DIGEST: digest.hex()})

    save_atomically(path, write)
    return digest.rows


class _Digest:
    """A digest of rows that does not depend on how they are divided into tables."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns = {name: (xxhash.xxh3_128(), xxhash.xxh3_128()) for name in SCHEMA.names}

    def add(self, table: pa.Table) -> None:
        """Takes in the next rows."""
        self.rows += len(table)
        for name, (values, lengths) in self._columns.items():
            for chunk in table[name].chunks:
                if pa.types.is_string(chunk.type):
                    offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(chunk) + 1]
                    text = memoryview(chunk.buffers()[2] or b"")
                    values.update(text[offsets[0] : offsets[-1]] if len(chunk) else b"")
                    lengths.update(np.diff(offsets).tobytes())
                elif name == "colours":
                    values.update(colour_array(pa.chunked_array([chunk])).tobytes())
                else:
                    values.update(np.ascontiguousarray(chunk.to_numpy(zero_copy_only=False)).tobytes())

    def hex(self) -> str:
        """The digest of all rows."""
        parts = [hasher.hexdigest() for pair in self._columns.values() for hasher in pair]
        return xxhash.xxh3_128_hexdigest(" ".join([str(self.rows), *parts]).encode())


def read_hashes(path: Path) -> pa.Table:
    """The rows of a hash file, of SCHEMA. Raises DataError if it is missing, damaged, empty or not a hash file."""
    try:
        open_source(str(path)).close()  # refuses a pipe, for which Arrow would wait
        # Not through a file of Python: Arrow's threads may then abort the process at its end.
        with pq.ParquetFile(path) as file:
            table, metadata = file.read(), file.metadata.metadata or {}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: write it with `albef-data hashes`") from None
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise DataError(f"{path} is not a hash file ({reason}): write it with `albef-data hashes`") from None
    if not set(SCHEMA.names) <= set(table.column_names):
        raise DataError(f"{path} lacks columns of a hash file: write it with `albef-data hashes`")
    if not len(table):
        raise DataError(f"{path} holds no image: write it again with `albef-data hashes`")
    wanted = metadata.get(_DIGEST.encode())
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
        nulls = sum(table[name].null_count for name in SCHEMA.names)
        digest = _Digest()
        digest.add(table)
        found = digest.hex().encode()
    except (pa.ArrowException, ValueError, TypeError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise DataError(f"{path} is damaged ({reason}): write it again with `albef-data hashes`") from None
    if nulls or wanted not in (None, found):
        raise DataError(f"{path} is damaged (its rows have another digest): write it again with `albef-data hashes`")
    return table


def load_hashes(name: str, path: Path) -> HashSet:
    """Reads a hash file. Raises DataError as `read_hashes`."""
    table = read_hashes(path)
    numbers = {name: table[name].to_numpy() for name in _NUMBERS}
    return HashSet(name, table["id"], numbers, colour_array(table["colours"]))
