"""The dedup stage: drops duplicate images by bytes, pixels and perceptual hash, then captions within and across images.

It runs on one node, holds a few columns of numbers at a time and spills caption texts to disk.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.config import DedupConfig
from data_tools.content.captions import normalise
from data_tools.execution.stage_folder import StageFolder, load_stage, open_stage
from data_tools.matching import image_duplicates
from data_tools.matching.caption_duplicates import SetFile, near_clusters
from data_tools.matching.distinct import distinct
from data_tools.matching.semantic_duplicates import load_features, semantic_duplicates
from data_tools.stages.decisions import DUPLICATE, KEPT, Decisions
from data_tools.stages.model_scores import RowFeatures
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
_LONGEST_USEFUL = 30  # words; the model reads at most this many


def dedup_stage(work: Path, config: DedupConfig) -> StageFolder:
    """Writes the decisions on duplicates among what the filter kept to `work/dedup`. Raises UserError if it is not finished."""
    columns, before = Columns(work), load_stage(work, "filter")
    settings = {"filter": before.digest, **asdict(config)}
    stored = RowFeatures(columns, config.embeddings) if _is_name(config.embeddings) else None
    if stored is not None:
        settings["features"] = stored.digest
    elif config.embeddings and Path(config.embeddings).exists():
        settings["embeddings_written"] = Path(config.embeddings).stat().st_mtime_ns
    stage = open_stage(work, "dedup", settings, is_map=False)
    if stage.done:
        return stage
    decisions = Decisions.load(before.folder)
    summary: dict[str, Any] = {"config": asdict(config)}
    copied = stage.folder / "features.npy"
    if stored is not None:
        stored.write_images(copied)
        config = replace(config, embeddings=str(copied))
    summary |= drop_duplicate_images(columns, decisions, config)
    copied.unlink(missing_ok=True)
    summary |= drop_duplicate_captions(columns, decisions, config, stage.folder)
    decisions.save(stage.folder)
    stage.finish(summary | {"counts": decisions.counts()})
    return stage


def _is_name(embeddings: str) -> bool:
    """True for the name of stored features, which is no path of a file."""
    return bool(embeddings) and not embeddings.endswith(".npy") and "/" not in embeddings and not Path(embeddings).is_file()


def drop_duplicate_images(columns: Columns, decisions: Decisions, config: DedupConfig) -> dict[str, int]:
    """Drops all but the best of equal and near-equal images; returns figures for the report."""
    rank = image_duplicates.quality_rank(columns.image("width"), columns.image("height"), columns.image("num_bytes"))
    figures: dict[str, int] = {}

    def take(reason: str, found: image_duplicates.Dropped) -> None:
        decisions.drop_images(found.rows, DUPLICATE + reason, found.kept, found.distance)

    rows = np.flatnonzero(columns.image("num_bytes"))
    copies = image_duplicates.equal(rows, (columns.image("bytes_lo")[rows], columns.image("bytes_hi")[rows]), rank)
    figures["redundant_byte_copies_listed"] = len(copies.rows)
    figures["groups_of_equal_bytes_listed"] = len(distinct(copies.kept))
    figures["groups_of_equal_bytes_listed_with_other_captions"] = _groups_with_other_captions(columns, copies)
    rows = np.flatnonzero(decisions.image == KEPT)
    found = image_duplicates.equal(rows, (columns.image("bytes_lo")[rows], columns.image("bytes_hi")[rows]), rank)
    figures["groups_of_equal_bytes"] = len(distinct(found.kept))
    figures["groups_of_equal_bytes_with_other_captions"] = _groups_with_other_captions(columns, found)
    take("same bytes", found)

    pixels = columns.image("pixels_lo")
    rows = np.flatnonzero((decisions.image == KEPT) & (pixels != 0))
    # Equal stored pixels with another EXIF orientation are another image.
    upper = columns.image("pixels_hi")[rows] ^ columns.image("orientation")[rows].astype(np.uint64)
    take("same pixels", image_duplicates.equal(rows, (pixels[rows], upper.astype(np.uint64)), rank))
    del pixels, upper

    flat = columns.image("variance") < config.min_variance
    figures["flat_pictures"] = int((flat & (decisions.image == KEPT)).sum())
    if config.radius >= 0:
        rows = np.flatnonzero((decisions.image == KEPT) & ~flat)
        phash = columns.image("phash")[rows]
        found = image_duplicates.near(rows, phash, columns.colours, rank, radius=config.radius, tolerance=config.tolerance)
        figures["near_duplicates_unexamined"] = found.unexamined
        take("looks the same", found)
    if config.embeddings:
        rows = np.flatnonzero(decisions.image == KEPT)
        features = load_features(Path(config.embeddings), columns.num_rows)
        take("means the same", semantic_duplicates(rows, features, rank, config.cosine))
    decisions.follow()
    return figures


def _groups_with_other_captions(columns: Columns, found: image_duplicates.Dropped) -> int:
    """Number of groups of equal images whose members do not all have the same set of captions."""
    owners, hashes = columns.caption_rows(), columns.caption("text_hash")
    # The sum of its hashes identifies a set; captions that repeat within one image are counted once.
    order = np.lexsort((hashes, owners))
    owners, hashes = owners[order], hashes[order]
    first = np.concatenate(([True], (owners[1:] != owners[:-1]) | (hashes[1:] != hashes[:-1])))[: len(owners)]
    sums = np.zeros(columns.num_rows, np.uint64)
    np.add.at(sums, owners[first], hashes[first])
    return len(distinct(found.kept[sums[found.rows] != sums[found.kept]]))


def drop_duplicate_captions(columns: Columns, decisions: Decisions, config: DedupConfig, folder: Path) -> dict[str, int]:
    """Drops captions that repeat on one image or are on too many images; returns figures for the report."""
    caption_rows = columns.caption_rows()
    owners = decisions.owners(caption_rows)
    hashes = columns.caption("text_hash")
    if config.several_captions == "drop":
        decisions.drop_images(_differing(decisions, owners, caption_rows, hashes), "conflicting captions of one picture")
        owners = decisions.owners(caption_rows)
    alive = np.flatnonzero((decisions.caption == KEPT) & (owners >= 0))
    labels, figures = _text_labels(columns, alive, hashes, config, folder)
    words = columns.caption("num_words")
    useful = np.minimum(words, _LONGEST_USEFUL)

    # On one image, the longest of equivalent captions stays, or the first listed of those equal in length.
    order = np.lexsort((alive, -useful[alive], labels, owners[alive]))
    who, what = owners[alive][order], labels[order]
    again = np.concatenate(([False], (who[1:] == who[:-1]) & (what[1:] == what[:-1]))) if len(order) else np.zeros(0, np.bool_)
    decisions.drop_captions(alive[order[again]], "caption said before on the same picture")

    if config.several_captions == "best":
        rest = alive[decisions.caption[alive] == KEPT]
        order = np.lexsort((rest, -useful[rest], owners[rest]))
        rest = rest[order]
        later = np.concatenate(([False], owners[rest][1:] == owners[rest][:-1])) if len(rest) else np.zeros(0, np.bool_)
        decisions.drop_captions(rest[later], "not the best caption of its picture")
    if config.max_pictures_per_caption:
        place = np.flatnonzero(decisions.caption[alive] == KEPT)
        rest, what = alive[place], labels[place]
        rank = image_duplicates.quality_rank(columns.image("width"), columns.image("height"), columns.image("num_bytes"))
        order = np.lexsort((rank[owners[rest]], what))
        starts = np.flatnonzero(np.concatenate(([True], what[order][1:] != what[order][:-1]))) if len(order) else order
        number = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        decisions.drop_captions(rest[order[number >= config.max_pictures_per_caption]], "caption of many pictures")
    decisions.drop_bare(owners, "no caption left")
    return figures


def _differing(decisions: Decisions, owners: I64, caption_rows: I64, hashes: NDArray[np.uint64]) -> I64:
    """Kept images that replace others and so collect different captions."""
    merged = distinct(owners[(owners >= 0) & (owners != caption_rows)])
    mask = np.zeros(len(decisions.image), np.bool_)
    mask[merged] = True
    captions = np.flatnonzero((owners >= 0) & (decisions.caption == KEPT))
    captions = captions[mask[owners[captions]]]
    order = np.lexsort((hashes[captions], owners[captions]))
    who, what = owners[captions][order], hashes[captions][order]
    return distinct(who[1:][(who[1:] == who[:-1]) & (what[1:] != what[:-1])])


def _text_labels(
    columns: Columns, alive: I64, hashes: NDArray[np.uint64], config: DedupConfig, folder: Path
) -> tuple[I64, dict[str, int]]:
    """Cluster of equal and near-equal texts of each caption of `alive`, int64, and figures for the report."""
    if config.jaccard == 0:
        return np.arange(len(alive)), {}
    _, first, inverse = np.unique(hashes[alive], return_index=True, return_inverse=True)
    figures = {"distinct_captions": len(first)}
    if config.jaccard >= 1:
        return inverse.astype(np.int64), figures
    # Texts are in the order of the captions, so that one pass over the catalog finds them.
    chosen = np.sort(first)
    number_of = np.empty(len(first), np.int64)
    number_of[np.argsort(first, kind="stable")] = np.arange(len(first))
    captions = alive[chosen]
    sets = SetFile(folder)
    try:
        _spill(columns, captions, sets)
        found = near_clusters(lambda k: columns.caption(f"band_{k:02d}")[captions], sets, len(captions), config.jaccard)
    finally:
        sets.remove()
    figures |= {"caption_pairs_compared": found.candidates, "caption_pairs_alike": found.verified}
    figures["caption_clusters"] = len(distinct(found.labels))
    return found.labels[number_of[inverse]].astype(np.int64), figures


def _spill(columns: Columns, captions: I64, sets: SetFile) -> None:
    first = 0
    for chunk in columns.catalog.chunks:
        flat = columns.catalog.read(chunk, ["captions"])["captions"].combine_chunks().flatten()
        low, high = np.searchsorted(captions, [first, first + len(flat)])
        sets.append([normalise(caption) for caption in flat.take(captions[low:high] - first).to_pylist()])
        first += len(flat)
    sets.finish()
