"""Features and scores of a corpus, as `albef-data embed` stores them beside its manifest.

    CORPUS/embed/settings.json       the model
    CORPUS/embed/00000.safetensors   per shard: `images` float16 (samples, D) and `texts` float16 (captions, D) of unit length,
                                     `itc` and `itm` float32 (captions,), `captions` int32 (samples,): how many each sample has
    CORPUS/embed/done.json           counts, and the shards' checksums; written last

What could not be read has features of zeros and scores that are not numbers (NaN). Captions are in the order of the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest
from data_tools.execution.stage_folder import DONE_NAME, DamagedStageError, StageFolder, checked_path

NAME = "embed"
"""Default name of the folder."""
Arrays = dict[str, NDArray[Any]]


def part_name(shard: str) -> str:
    """The file of the features of `shard`."""
    return shard.removesuffix(".tar") + ".safetensors"


class StoredFeatures:
    """The finished features `name` of the corpus in `corpus`.

    Raises DataError if they are missing, unfinished, damaged, or of other shards than the manifest's.
    """

    def __init__(self, corpus: Path, name: str = NAME) -> None:
        self.corpus, self.folder = corpus, corpus / name
        self._mend = f"run `albef-data embed {corpus}`" + ("" if name == NAME else f" with the name {name}")
        if not (self.folder / DONE_NAME).exists():
            raise DataError(f"{self.folder} has no finished features: {self._mend}")
        manifest = Manifest.load(corpus)
        self._shards = manifest.shards
        try:
            self.summary = StageFolder(self.folder, "").summary
            checked_path(self.folder, DONE_NAME)
            self.width, self.num_captions = int(self.summary["embed_dim"]), int(self.summary["num_captions"])
            self.digest, shards = str(self.summary["digest"]), list(self.summary["shards"])
        except (DamagedStageError, LookupError, TypeError, ValueError):
            raise self._damaged(DONE_NAME) from None
        if shards != [shard.checksum for shard in self._shards]:
            raise DataError(f"{self.folder} has the features of other shards than {corpus} has now: {self._mend} again")
        self.num_samples = manifest.num_samples

    def parts(self) -> Iterator[Arrays]:
        """Yields the arrays of each shard."""
        for shard in self._shards:
            name = part_name(shard.name)
            try:
                arrays: Arrays = load(checked_path(self.folder, name).read_bytes())
            except (DamagedStageError, OSError, SafetensorError, ValueError):
                raise self._damaged(name) from None
            if len(arrays["images"]) != shard.num_samples:
                raise self._damaged(name)
            yield arrays

    def scores(self) -> Arrays:
        """`captions` int32 (num_samples,), and `itc` and `itm` float32 (num_captions,)."""
        found: dict[str, list[NDArray[Any]]] = {"captions": [], "itc": [], "itm": []}
        for arrays in self.parts():
            for name, values in found.items():
                values.append(arrays[name])
        return {name: np.concatenate(values) for name, values in found.items()}

    def _damaged(self, name: str) -> DataError:
        return DataError(f"{self.folder / name} is damaged: {self._mend} with restart")
