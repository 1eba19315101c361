"""Reads corpora that albef-data has written, through their manifest and indexes."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest, load_index, sample_key
from data_tools.files.storage import open_source
from data_tools.readers.source import Problems, Record, SourceSpec, caption_list


def parts(spec: SourceSpec) -> list[str]:
    """The tars that the manifest lists."""
    return [os.path.join(spec.path, shard.name) for shard in Manifest.load(Path(spec.path)).shards]


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """The samples of one of our shards, read through its index. Raises DataError for a damaged sample, and as `load_index`."""
    folder = Path(spec.path)
    manifest, name = Manifest.load(folder), posixpath.basename(part)
    first = 0
    for entry in manifest.shards:
        if entry.name == name:
            break
        first += entry.num_samples
    with open_source(part) as file:
        for number, (offset, size, meta_offset, meta_size) in enumerate(load_index(folder, entry).tolist(), start=first):
            file.seek(meta_offset)
            try:
                meta = json.loads(file.read(meta_size))
                image_id, captions = str(meta["image_id"]), caption_list(meta["captions"])
                extra = {key: value for key, value in meta.items() if key not in ("captions", "image_id")}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise DataError(
                    f"{part} is damaged at sample {sample_key(number)}: copy it again or run `albef-data verify`"
                ) from None
            yield Record(f"{name}!{sample_key(number)}", part, offset, size, captions, image_id, "", extra)
