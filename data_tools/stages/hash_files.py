"""Hash files: Parquet files that identify images without holding them, and so can be shared.

One row per image: `set`, `id`, `image_id`, byte and pixel hashes, perceptual hash, variance, colours. Written for evaluation
sets (`albef-data hashes`) and beside every corpus (`fingerprints.parquet`), so that later sources can be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.content.images import COLOUR_BYTES
from data_tools.files.storage import save_atomically
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
_NUMBERS = ["bytes_hi", "bytes_lo", "pixels_hi", "pixels_lo", "phash", "variance"]


@dataclass(frozen=True)
class HashSet:
    """The N images of one hash file; `numbers` has the numeric columns by name."""

    name: str
    ids: list[str]
    image_ids: list[str]
    numbers: dict[str, NDArray[Any]]
    colours: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)


def save_hashes(path: Path, columns: Columns, keep: NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Writes the hash file of the rows in `keep` (default: all that were decoded, with or without captions).

    Returns the counts `written` and `left_out`. Raises DataError if no row has an image.
    """
    written = 0

    def write(file: Any) -> None:
        nonlocal written
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for chunk, scanned in columns.tables(["status", *_NUMBERS, "colours"]):
                listed = columns.catalog.read(chunk, ["id", "image_id"])
                good = np.array([status in ("", NO_CAPTION) for status in scanned["status"].to_pylist()], np.bool_)
                if keep is not None:
                    good &= keep[chunk.first_row : chunk.first_row + chunk.num_rows]
                rows = pa.array(np.flatnonzero(good))
                table = scanned.select([*_NUMBERS, "colours"]).take(rows)
                listed = listed.take(rows).add_column(0, "set", pa.array([chunk.source] * len(rows), pa.string()))
                merged = pa.table({**{n: listed[n] for n in listed.column_names}, **{n: table[n] for n in table.column_names}})
                writer.write_table(merged.cast(SCHEMA))
                written += len(rows)

    save_atomically(path, write)
    if written == 0:
        path.unlink()
        raise DataError(f"no image could be read for {path}: check the source (statuses {', '.join(BROKEN)} or missing)")
    return {"written": written, "left_out": columns.num_rows - written}


def load_hashes(name: str, path: Path) -> HashSet:
    """Reads a hash file. Raises DataError if it is missing, damaged or not a hash file."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: write it with `albef-data hashes`") from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        raise DataError(f"{path} is not a hash file ({reason}): write it with `albef-data hashes`") from None
    if not set(SCHEMA.names) <= set(table.column_names):
        raise DataError(f"{path} lacks columns of a hash file: write it with `albef-data hashes`")
    ids, image_ids = table["id"].to_pylist(), table["image_id"].to_pylist()
    numbers = {name: table[name].to_numpy() for name in _NUMBERS}
    return HashSet(name, ids, image_ids, numbers, colour_array(table["colours"]))
