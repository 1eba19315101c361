"""The file of an order of similar pairs, which `albef-data group` writes beside a manifest and the stream reads.

NAME.order.npy    int32 (num_samples,): the place of each sample of the corpus in the order; neighbours there are alike
NAME.order.json   format, number of samples, digest of the shards and checksum of the places; written last
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.atomic_files import write_file, write_json
from albef_ds.common.errors import ConfigError, DataError
from albef_ds.common.names import is_file_name
from albef_ds.data.shards.format import ARRAY_FAULTS, Manifest

FORMAT = "albef-ds-order/1"
PLACES_ENDING, FACTS_ENDING = ".order.npy", ".order.json"
Places = NDArray[np.int32]


def order_files(folder: Path) -> list[Path]:
    """Returns the files of all orders in `folder`, which a copy of a corpus needs too."""
    return sorted([*folder.glob(f"*{PLACES_ENDING}"), *folder.glob(f"*{FACTS_ENDING}")])


def save_order(folder: Path, name: str, manifest: Manifest, places: Places, info: dict[str, Any]) -> None:
    """Writes the order `name` of the corpus in `folder`; `info` is free-form. Raises `OSError` if it cannot be written."""
    buffer = io.BytesIO()
    np.save(buffer, places.astype(np.int32), allow_pickle=False)
    write_file(folder / f"{name}{PLACES_ENDING}", buffer.getvalue())
    facts = {"format": FORMAT, "num_samples": len(places), "shards": _digest(manifest), "info": info}
    write_json(folder / f"{name}{FACTS_ENDING}", {**facts, "checksum": xxhash.xxh3_128_hexdigest(buffer.getvalue())})


def load_order(name: str, manifest: Manifest, read: Callable[[str], bytes], where: str) -> Places:
    """Returns the places of the samples in the order `name`.

    Args:
        name: its name.
        manifest: the corpus.
        read: returns the bytes of a file beside the manifest; raises `FileNotFoundError` or `DataError` if there is none.
        where: folder or URL of the corpus, for messages.

    Raises:
        ConfigError: `name` is none of a file.
        DataError: the order is missing, damaged, or of other shards.
    """
    if not is_file_name(name):
        raise ConfigError(f"data.group_order={name} is not a name: give that of an order that `albef-data group` wrote")
    mend = f"run `albef-data group {where}`"
    try:
        facts, content = json.loads(read(name + FACTS_ENDING)), read(name + PLACES_ENDING)
        wanted = (facts["format"], facts["num_samples"], facts["shards"], facts["checksum"])
        if wanted[0] != FORMAT or wanted[3] != xxhash.xxh3_128_hexdigest(content):
            raise DataError(f"the order {name} in {where} is damaged (its checksum differs): {mend}")
        places: Places = np.load(io.BytesIO(content), allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{where} has no order {name}: {mend}") from None
    except DataError:
        raise
    except (*ARRAY_FAULTS, TypeError) as error:
        raise DataError(f"the order {name} in {where} is damaged ({error}): {mend}") from None
    if wanted[1:3] != (manifest.num_samples, _digest(manifest)) or places.shape != (manifest.num_samples,):
        raise DataError(f"the order {name} in {where} is that of other shards: {mend} again")
    return places


def _digest(manifest: Manifest) -> str:
    return xxhash.xxh3_128_hexdigest("".join(shard.checksum for shard in manifest.shards).encode())
