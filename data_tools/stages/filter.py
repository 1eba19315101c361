"""Rules that drop an image or a caption for its own properties, each with its reason, applied in the order of this file.

A caption rule drops captions; an image without any caption left is dropped. Duplicates are handled elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.config import FilterConfig
from data_tools.execution.stage_folder import StageFolder, open_stage
from data_tools.matching.distinct import starts_of_runs
from data_tools.stages.decisions import KEPT, Decisions
from data_tools.stages.model_scores import PairScores, RowFeatures
from data_tools.stages.scan_results import Columns

BROKEN = ("empty file", "not a picture", "too many pixels", "cut off", "damaged")
"""Scan statuses of files that exist but are unusable; every other status means there is nothing to read."""

Mask = NDArray[np.bool_]


def _image_rules(config: FilterConfig, columns: Columns) -> list[tuple[str, Callable[[], Mask]]]:
    rules: list[tuple[str, Callable[[], Mask]]] = []
    if config.min_side:
        rules.append(("picture too small", lambda: np.minimum(columns.image("width"), columns.image("height")) < config.min_side))
    if config.max_aspect:

        def stretched() -> Mask:
            width, height = columns.image("width").astype(np.int64), columns.image("height").astype(np.int64)
            result: Mask = np.maximum(width, height) > config.max_aspect * np.minimum(width, height)
            return result

        rules.append(("aspect ratio", stretched))
    return rules


def _caption_rules(config: FilterConfig, columns: Columns) -> list[tuple[str, Callable[[], Mask]]]:
    caption = columns.caption
    rules: list[tuple[str, bool, Callable[[], Mask]]] = [
        ("caption too short", config.min_words > 0, lambda: caption("num_words") < config.min_words),
        ("caption too long", config.max_words > 0, lambda: caption("num_words") > config.max_words),
        ("caption of too many characters", config.max_chars > 0, lambda: caption("num_chars") > config.max_chars),
        ("caption of digits", config.max_digits < 1, lambda: caption("digits") > config.max_digits),
        ("caption of punctuation", config.max_punctuation < 1, lambda: caption("punctuation") > config.max_punctuation),
        ("caption of repeated words", config.max_repeated < 1, lambda: caption("repeated") > config.max_repeated),
        ("caption in another script", bool(config.scripts), lambda: _foreign(columns, config.scripts)),
    ]
    return [(name, mask) for name, active, mask in rules if active]


def _foreign(columns: Columns, scripts: tuple[str, ...]) -> Mask:
    codes, names = columns.labels("script", captions=True)
    foreign = np.array([name not in (*scripts, "none") for name in names] or [False])
    return foreign[codes]


def _boilerplate(columns: Columns, decisions: Decisions, max_images: int) -> Mask:
    """Mask of the captions of more than `max_images` images of different bytes."""
    hashes = columns.caption("text_hash")
    images = columns.image("bytes_lo")[columns.caption_rows()]
    order = np.lexsort((images, hashes))
    hashes, images = hashes[order], images[order]
    new_text, new_image = starts_of_runs(hashes), starts_of_runs(hashes, images)
    counts = np.add.reduceat(new_image.astype(np.int64), np.flatnonzero(new_text)) if len(hashes) else np.zeros(0, np.int64)
    mask = np.empty(len(hashes), np.bool_)
    mask[order] = np.repeat(counts > max_images, np.diff(np.append(np.flatnonzero(new_text), len(hashes))))
    return mask


@dataclass(frozen=True)
class ModelScores:
    """Scores of every caption, and the cluster of each caption's image, int64 (C,), all 0 if there is only one."""

    scores: PairScores
    clusters: NDArray[np.int64]

    @classmethod
    def read(cls, columns: Columns, features: RowFeatures, config: FilterConfig, folder: Path) -> ModelScores:
        """Reads the scores and finds `config.clusters` clusters, with a file in `folder` for a moment."""
        labels = np.zeros(columns.num_captions, np.int64)
        if config.clusters:
            labels = features.image_clusters(folder / "features.npy", config.clusters)[columns.caption_rows()]
        return cls(features.scores(), labels)


def _apply_model_rules(decisions: Decisions, owners: NDArray[np.int64], config: FilterConfig, model: ModelScores) -> None:
    """Drops captions with a low score. One without a score stays."""
    itm, itc = model.scores.itm, model.scores.itc
    decisions.drop_captions((itm < config.min_itm) & (owners >= 0), "caption scored low by ITM")
    decisions.drop_captions((itc < config.min_itc) & (owners >= 0), "caption scored low by ITC")
    for values, share, name in ((itm, config.lowest_itm, "ITM"), (itc, config.lowest_itc, "ITC")):
        alive = np.flatnonzero((decisions.caption == KEPT) & (owners >= 0) & np.isfinite(values))
        decisions.drop_captions(_lowest(alive, values, model.clusters, share), f"caption among the lowest by {name}")


def _lowest(
    captions: NDArray[np.int64], values: NDArray[np.float32], clusters: NDArray[np.int64], share: float
) -> NDArray[np.int64]:
    """Those of `captions` in the lowest `share` of their cluster by `values`, rounded down; equal values by number."""
    order = captions[np.lexsort((captions, values[captions], clusters[captions]))]
    labels = clusters[order]
    starts = np.flatnonzero(starts_of_runs(labels))
    sizes = np.diff(np.append(starts, len(order)))
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    return order[place < np.repeat(np.floor(sizes * share), sizes)]


def apply_filters(columns: Columns, config: FilterConfig, model: ModelScores | None = None) -> Decisions:
    """Decisions by status and by every rule in `config`; `model` has the scores that some of them need."""
    decisions = Decisions.new(columns.num_rows, columns.num_captions)
    codes, texts = columns.labels("status")
    for code, status in enumerate(texts):
        if status:
            decisions.drop_images(codes == code, f"{'broken' if status in BROKEN else 'missing'}: {status}")
    for reason, mask in _image_rules(config, columns):
        decisions.drop_images(mask(), reason)
    owners = decisions.owners(columns.caption_rows())
    for reason, mask in _caption_rules(config, columns):
        decisions.drop_captions(mask() & (owners >= 0), reason)
    if config.max_pictures:
        decisions.drop_captions(_boilerplate(columns, decisions, config.max_pictures) & (owners >= 0), "boilerplate caption")
    if model is not None:
        _apply_model_rules(decisions, owners, config, model)
    decisions.drop_bare(owners, "no caption left")
    return decisions


def filter_stage(work: Path, config: FilterConfig) -> StageFolder:
    """Applies `config` to the scan and writes the decisions to `work/filter`.

    Raises UserError if the scan is not finished, or a rule needs scores of a model that no source has.
    """
    columns = Columns(work)
    features = RowFeatures(columns, config.features) if config.uses_model else None
    scored = {"scores": features.digest} if features else {}
    stage = open_stage(work, "filter", {"scan": columns.digest, **_settings(config), **scored}, is_map=False)
    if not stage.done:
        model = ModelScores.read(columns, features, config, stage.folder) if features else None
        decisions = apply_filters(columns, config, model)
        decisions.save(stage.folder)
        unscored = {"captions_without_a_score": int(np.isnan(model.scores.itm).sum())} if model else {}
        stage.finish({"counts": decisions.counts(), "config": asdict(config), **unscored})
    return stage


def _settings(config: FilterConfig) -> dict[str, Any]:
    """What decides the result, as in earlier versions where no rule uses a model, so that their stages stay finished."""
    new = ("features", "min_itm", "min_itc", "lowest_itm", "lowest_itc", "clusters")
    return {name: value for name, value in asdict(config).items() if config.uses_model or name not in new}
