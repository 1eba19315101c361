"""The dedup stage: drops duplicate images by bytes, pixels and perceptual hash, then captions within and across images.

Tasks compare the keys of one part each, in rounds (`image_parts`, `caption_parts`). What is between rounds is done here, with a
few numbers for each row and caption; the result does not depend on the number of parts, nor on who runs the tasks.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.atomic_files import scratch_path
from data_tools.config import DedupConfig
from data_tools.execution.executors import ONE, Parallel
from data_tools.execution.rounds import check_settings, num_partitions, open_reduction, parts_folder, run_shared
from data_tools.execution.stage_folder import StageFolder, load_stage
from data_tools.matching.caption_duplicates import TextClusters
from data_tools.matching.distinct import distinct, starts_of_runs
from data_tools.matching.image_duplicates import Dropped, quality_rank
from data_tools.matching.semantic_duplicates import load_features, semantic_duplicates
from data_tools.stages.caption_parts import CaptionRounds
from data_tools.stages.decisions import DUPLICATE, KEPT, Decisions
from data_tools.stages.image_parts import ImageRounds
from data_tools.stages.model_scores import RowFeatures
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
_LONGEST_USEFUL = 30  # words; the model reads at most this many


def dedup_stage(work: Path, config: DedupConfig, parallel: Parallel = ONE, partitions: int = 0) -> StageFolder:
    """Writes the decisions on duplicates among what the filter kept to `work/dedup`.

    `partitions` (0: by the number of rows) bounds the memory of the tasks that `parallel` runs; the result does not depend on it.
    Raises UserError if the filter stage is not finished.
    """
    columns, before = Columns(work), load_stage(work, "filter")
    settings = {"filter": before.digest, **asdict(config)}
    stored = RowFeatures(columns, config.embeddings) if _is_name(config.embeddings) else None
    if stored is not None:
        settings["features"] = stored.digest
    elif config.embeddings and Path(config.embeddings).exists():
        settings["embeddings_written"] = Path(config.embeddings).stat().st_mtime_ns
    num_parts = num_partitions(partitions, columns.num_rows, parallel)
    stage = open_reduction(work, "dedup", settings, parallel)
    parts = parts_folder(stage, num_parts)

    def reduce() -> dict[str, Any]:
        decisions = Decisions.load(before.folder)
        summary: dict[str, Any] = {"config": asdict(config)}
        images = ImageRounds(work, parts, config, parallel, num_parts)
        summary |= drop_duplicate_images(columns, decisions, config, images, stored)
        captions = CaptionRounds(work, parts, config.jaccard, parallel, num_parts)
        summary |= drop_duplicate_captions(columns, decisions, config, captions)
        check_settings(stage)
        decisions.save(stage.folder)
        return summary | {"counts": decisions.counts()}

    run_shared(stage, reduce)
    return stage


def _is_name(embeddings: str) -> bool:
    """True for the name of stored features, which is no path of a file."""
    return bool(embeddings) and not embeddings.endswith(".npy") and "/" not in embeddings and not Path(embeddings).is_file()


def drop_duplicate_images(
    columns: Columns, decisions: Decisions, config: DedupConfig, rounds: ImageRounds, stored: RowFeatures | None
) -> dict[str, int]:
    """Drops all but the best of equal and near-equal images; returns figures for the report."""
    figures: dict[str, int] = {}

    def take(reason: str, found: Dropped) -> None:
        decisions.drop_images(found.rows, DUPLICATE + reason, found.kept, found.distance)

    found, copies = rounds.equal("bytes", decisions.image)
    caption_rows = columns.caption_rows()
    figures["redundant_byte_copies_listed"] = len(copies.rows)
    figures["groups_of_equal_bytes_listed"] = len(distinct(copies.kept))
    figures["groups_of_equal_bytes_listed_with_other_captions"] = _groups_with_other_captions(columns, caption_rows, copies)
    figures["groups_of_equal_bytes"] = len(distinct(found.kept))
    figures["groups_of_equal_bytes_with_other_captions"] = _groups_with_other_captions(columns, caption_rows, found)
    del caption_rows
    take("same bytes", found)
    take("same pixels", rounds.equal("pixels", decisions.image)[0])
    flat = columns.image("variance") < config.min_variance
    figures["flat_pictures"] = int((flat & (decisions.image == KEPT)).sum())
    if config.radius >= 0:
        found = rounds.near(decisions.image)
        figures["near_duplicates_unexamined"] = found.unexamined
        take("looks the same", found)
    if config.embeddings:
        take("means the same", _alike_by_features(columns, decisions, config, stored, rounds.parts))
    decisions.follow()
    return figures


def _alike_by_features(
    columns: Columns, decisions: Decisions, config: DedupConfig, stored: RowFeatures | None, parts: Path
) -> Dropped:
    """Images with similar features; in one process, because its clusters are those of all images."""
    path = Path(config.embeddings)
    with scratch_path(parts / "features.npy") as copied:
        if stored is not None:
            parts.mkdir(parents=True, exist_ok=True)
            stored.write_images(copied)
            path = copied
        rows = np.flatnonzero(decisions.image == KEPT)
        rank = quality_rank(columns.image("width"), columns.image("height"), columns.image("num_bytes"))
        return semantic_duplicates(rows, load_features(path, columns.num_rows), rank, config.cosine)


def _groups_with_other_captions(columns: Columns, caption_rows: I64, found: Dropped) -> int:
    """Number of groups of equal images whose members do not all have the same set of captions."""
    members = np.zeros(columns.num_rows, np.bool_)
    members[found.rows] = True
    members[found.kept] = True
    captions = np.flatnonzero(members[caption_rows])
    owners, hashes = caption_rows[captions], columns.gather_captions(captions, ["text_hash"])["text_hash"]
    # The sum of its hashes identifies a set; captions that repeat within one image are counted once.
    order = np.lexsort((hashes, owners))
    owners, hashes = owners[order], hashes[order]
    first = starts_of_runs(owners, hashes)
    sums = np.zeros(columns.num_rows, np.uint64)
    np.add.at(sums, owners[first], hashes[first])
    return len(distinct(found.kept[sums[found.rows] != sums[found.kept]]))


def drop_duplicate_captions(columns: Columns, decisions: Decisions, config: DedupConfig, rounds: CaptionRounds) -> dict[str, int]:
    """Drops captions that repeat on one image or are on too many images; returns figures for the report."""
    caption_rows = columns.caption_rows()
    owners = decisions.owners(caption_rows)
    if config.several_captions == "drop":
        decisions.drop_images(_differing(columns, decisions, owners, caption_rows), "conflicting captions of one picture")
        owners = decisions.owners(caption_rows)
    first_captions = columns.first_captions(caption_rows)
    del caption_rows
    alive = (decisions.caption == KEPT) & (owners >= 0)
    if config.jaccard == 0:
        nothing = np.zeros(0, np.int64)
        found, figures = TextClusters(nothing, nothing, 0), dict[str, int]()
    else:
        found, figures = rounds.clusters(columns, alive, first_captions)

    # On one image, the longest of equivalent captions stays, or the first listed of those equal in length.
    captions, labels = found.captions, found.labels
    useful = _useful_words(columns, captions)
    order = np.lexsort((captions, -useful, labels, owners[captions]))
    again = ~starts_of_runs(owners[captions[order]], labels[order])
    decisions.drop_captions(captions[order[again]], "caption said before on the same picture")

    if config.several_captions == "best":
        rest = np.flatnonzero(alive & (decisions.caption == KEPT))
        several = np.bincount(owners[rest], minlength=1)[owners[rest]] > 1
        rest = rest[several]
        order = np.lexsort((rest, -_useful_words(columns, rest), owners[rest]))
        rest = rest[order]
        decisions.drop_captions(rest[~starts_of_runs(owners[rest])], "not the best caption of its picture")
    if config.max_pictures_per_caption:
        decisions.drop_captions(
            _beyond(columns, decisions, found, owners, config.max_pictures_per_caption), "caption of many pictures"
        )
    decisions.drop_bare(owners, "no caption left")
    return figures


def _useful_words(columns: Columns, captions: I64) -> NDArray[np.int32]:
    words: NDArray[np.int32] = columns.gather_captions(captions, ["num_words"])["num_words"]
    return np.minimum(words, _LONGEST_USEFUL)


def _beyond(columns: Columns, decisions: Decisions, found: TextClusters, owners: I64, most: int) -> I64:
    """The kept captions of clusters on more than `most` images, but for those of the best images."""
    kept = decisions.caption[found.captions] == KEPT
    captions, labels = found.captions[kept], found.labels[kept]
    many = np.bincount(labels, minlength=1)[labels] > most
    captions, labels = captions[many], labels[many]
    rows = distinct(owners[captions])
    rank = columns.quality(rows)[np.searchsorted(rows, owners[captions])]
    order = np.lexsort((rank, labels))
    starts = np.flatnonzero(starts_of_runs(labels[order]))
    number = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    beyond: I64 = captions[order[number >= most]]
    return beyond


def _differing(columns: Columns, decisions: Decisions, owners: I64, caption_rows: I64) -> I64:
    """Kept images that replace others and so collect different captions."""
    merged = distinct(owners[(owners >= 0) & (owners != caption_rows)])
    mask = np.zeros(len(decisions.image), np.bool_)
    mask[merged] = True
    captions = np.flatnonzero((owners >= 0) & (decisions.caption == KEPT))
    captions = captions[mask[owners[captions]]]
    hashes = columns.gather_captions(captions, ["text_hash"])["text_hash"]
    order = np.lexsort((hashes, owners[captions]))
    who, what = owners[captions][order], hashes[order]
    return distinct(who[1:][(who[1:] == who[:-1]) & (what[1:] != what[:-1])])
