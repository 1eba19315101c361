"""Writes an order of similar pairs beside a manifest, from stored features; the stream draws its groups from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError
from albef_ds.common.names import is_file_name
from albef_ds.data.shards.format import Manifest
from albef_ds.data.shards.order_file import FACTS_ENDING, save_order
from data_tools.features.stored import Arrays, StoredFeatures
from data_tools.files.storage import writing_to
from data_tools.matching.clusters import unit
from data_tools.matching.similar_order import neighbour_similarity, similar_order

By = Literal["both", "images", "texts"]


@dataclass(frozen=True)
class Grouped:
    """An order that was written, and the mean cosine similarity of neighbours in it and of random pairs."""

    name: str
    num_samples: int
    neighbours: float
    random_pairs: float


def write_groups(
    corpus: Path, features: str, name: str = "groups", *, by: By = "both", seed: int = 0, restart: bool = False
) -> Grouped:
    """Orders the samples of `corpus` by the similarity of their images, their captions (their mean), or both together.

    Raises UserError if the features are missing or damaged, or the corpus has an order of this name and `restart` is not set.
    """
    if not is_file_name(name):
        raise ConfigError(f"name is {name!r}: give one without a slash")
    stored = StoredFeatures(corpus, features)
    if (corpus / f"{name}{FACTS_ENDING}").exists() and not restart:
        raise ConfigError(f"{corpus} has an order {name}, which a run may use: give another name, or make it again with restart")
    temporary = corpus / f".{name}.features.tmp"
    with writing_to(corpus):
        try:
            pairs = _pair_features(stored, by, temporary)
            order = similar_order(pairs, seed)
            near, far = neighbour_similarity(pairs, order, seed)
        finally:
            temporary.unlink(missing_ok=True)
        places = np.empty(len(order), np.int32)
        places[order] = np.arange(len(order), dtype=np.int32)
        info = {"features": stored.digest, "by": by, "seed": seed, "neighbours": near, "random_pairs": far}
        save_order(corpus, name, Manifest.load(corpus), places, info)
    return Grouped(name, len(order), near, far)


def _pair_features(stored: StoredFeatures, by: By, path: Path) -> NDArray[np.floating]:
    """Features of every sample's pair, float16 (num_samples, width), in the file `path`."""
    width = stored.width * (2 if by == "both" else 1)
    pairs = np.memmap(path, np.float16, "w+", shape=(stored.num_samples, width))
    first = 0
    for arrays in stored.parts():
        chosen = [*([arrays["images"]] if by != "texts" else []), *([_mean_texts(arrays)] if by != "images" else [])]
        pairs[first : first + len(arrays["images"])] = np.concatenate([unit(part) for part in chosen], axis=1)
        first += len(arrays["images"])
    return pairs


def _mean_texts(arrays: Arrays) -> NDArray[np.floating]:
    """Mean of each sample's caption features, float32 (samples, D); zeros for a sample without captions."""
    counts = arrays["captions"].astype(np.int64)
    sums = np.zeros((len(counts), arrays["texts"].shape[1]), np.float32)
    np.add.at(sums, np.repeat(np.arange(len(counts)), counts), arrays["texts"].astype(np.float32))
    return sums / np.maximum(counts, 1)[:, None]
