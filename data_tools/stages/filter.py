"""Rules that drop a picture or a caption for what it is, each with its reason, applied in the order they stand here.

A caption rule drops captions; a picture goes when it has none left. Duplicates are not this module's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.config import FilterConfig
from data_tools.execution.stage_folder import Stage, open_stage
from data_tools.stages.decisions import Decisions
from data_tools.stages.scan_results import Columns

BROKEN = ("empty file", "not a picture", "too many pixels", "cut off", "damaged")
"""Statuses of the scan that mean a file is there and unusable; every other one means there is nothing to read."""


Mask = NDArray[np.bool_]


def _picture_rules(config: FilterConfig, columns: Columns) -> list[tuple[str, Callable[[], Mask]]]:
    rules: list[tuple[str, Callable[[], Mask]]] = []
    if config.min_side:
        rules.append(
            ("picture too small", lambda: np.minimum(columns.picture("width"), columns.picture("height")) < config.min_side)
        )
    if config.max_aspect:

        def stretched() -> Mask:
            width, height = columns.picture("width").astype(np.int64), columns.picture("height").astype(np.int64)
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


def _boilerplate(columns: Columns, decisions: Decisions, max_pictures: int) -> Mask:
    """Captions that stand on more than `max_pictures` pictures of different bytes."""
    hashes = columns.caption("text_hash")
    pictures = columns.picture("bytes_lo")[columns.caption_rows()]
    order = np.lexsort((pictures, hashes))
    hashes, pictures = hashes[order], pictures[order]
    new_text = np.concatenate(([True], hashes[1:] != hashes[:-1]))
    new_picture = new_text | np.concatenate(([True], pictures[1:] != pictures[:-1]))
    counts = np.add.reduceat(new_picture.astype(np.int64), np.flatnonzero(new_text)) if len(hashes) else np.zeros(0, np.int64)
    mask = np.empty(len(hashes), np.bool_)
    mask[order] = np.repeat(counts > max_pictures, np.diff(np.append(np.flatnonzero(new_text), len(hashes))))
    return mask


def apply_filters(columns: Columns, config: FilterConfig) -> Decisions:
    """Decisions of the status and of every rule in `config`."""
    decisions = Decisions.new(columns.num_rows, columns.num_captions)
    codes, texts = columns.labels("status")
    for code, status in enumerate(texts):
        if status:
            decisions.drop_pictures(codes == code, f"{'broken' if status in BROKEN else 'missing'}: {status}")
    for reason, mask in _picture_rules(config, columns):
        decisions.drop_pictures(mask(), reason)
    owners = decisions.owners(columns.caption_rows())
    for reason, mask in _caption_rules(config, columns):
        decisions.drop_captions(mask() & (owners >= 0), reason)
    if config.max_pictures:
        decisions.drop_captions(_boilerplate(columns, decisions, config.max_pictures) & (owners >= 0), "boilerplate caption")
    decisions.drop_bare(owners, "no caption left")
    return decisions


def filter_stage(work: Path, config: FilterConfig) -> Stage:
    """Apply `config` to the scan and write the decisions to `work/filter`.

    Raises:
        UserError: the scan is not finished.
    """
    columns = Columns(work)
    stage = open_stage(work, "filter", {"scan": columns.digest, **asdict(config)}, is_map=False)
    if not stage.done:
        decisions = apply_filters(columns, config)
        decisions.save(stage.folder)
        stage.finish({"counts": decisions.counts(), "config": asdict(config)})
    return stage
