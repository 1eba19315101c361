"""Drops training images that are also in an evaluation set, or that a corpus already holds (`append`).

Images are matched by bytes, pixels, perceptual hash or listed ids.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.config import DecontaminateConfig
from data_tools.execution.stage_folder import StageFolder, load_stage, open_stage
from data_tools.files.storage import open_source
from data_tools.matching.hamming import cross_pairs
from data_tools.readers.source import id_of, id_of_text
from data_tools.stages.decisions import KEPT, Decisions
from data_tools.stages.hash_files import HashSet, load_hashes
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
_EXAMPLES = 12


@dataclass(frozen=True)
class Match:
    """Training `rows` found in a set in the way `how`, the `entries` of the set they match, and the hash distances in bits."""

    how: str
    rows: I64
    entries: I64
    distance: NDArray[np.int16]


def find(columns: Columns, rows: I64, known: HashSet, config: DecontaminateConfig) -> list[Match]:
    """Finds those of `rows` (ascending) that are in `known`; a row appears only under the first way that finds it."""
    matches = []
    for how, lower, upper in (("same bytes", "bytes_lo", "bytes_hi"), ("same pixels", "pixels_lo", "pixels_hi")):
        low, high = columns.image(lower)[rows], columns.image(upper)[rows]
        order = np.argsort(known.numbers[lower], kind="stable")
        place = np.minimum(np.searchsorted(known.numbers[lower], low, sorter=order), max(len(order) - 1, 0))
        entries = order[place] if len(order) else np.zeros(len(rows), np.int64)
        hit = (low != 0) & (known.numbers[lower][entries] == low) & (known.numbers[upper][entries] == high)
        matches.append(Match(how, rows[hit], entries[hit], np.zeros(int(hit.sum()), np.int16)))
        rows = rows[~hit]
    if config.radius >= 0:
        rows = rows[columns.image("variance")[rows] >= config.min_variance]
        usable = np.flatnonzero(known.numbers["variance"] >= config.min_variance)
        left, right, distance = cross_pairs(known.numbers["phash"][usable], columns.image("phash")[rows], config.radius)
        candidates, inverse = np.unique(rows[right], return_inverse=True)
        fields = columns.colours(candidates)[inverse].astype(np.int16)
        near = np.abs(fields - known.colours[usable[left]]).max(axis=1, initial=0) <= config.tolerance
        found, entries, bits = rows[right[near]], usable[left[near]], distance[near].astype(np.int16)
        order = np.lexsort((entries, bits, found))
        first = np.unique(found[order], return_index=True)[1]
        matches.append(Match("looks the same", found[order][first], entries[order][first], bits[order][first]))
    return matches


def read_ids(path: str) -> set[str]:
    """The ids in a file of one id per line, without blank lines. Raises DataError if it cannot be read or is empty."""
    try:
        with open_source(path) as file:
            ids = {id_of_text(line.strip()) for line in file.read().decode("utf-8-sig").split("\n")} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"id list {path} cannot be read ({error}): give a text file with one id a line") from None
    if not ids:
        raise DataError(f"id list {path} is empty: give one id a line")
    return ids


def rows_with_ids(columns: Columns, ids: set[str]) -> I64:
    """Rows whose image id, COCO id, listed path, file name or file stem is in `ids`; deliberately broad."""
    rows = []
    for chunk in columns.catalog.chunks:
        for number, record in enumerate(columns.catalog.records(chunk), start=chunk.first_row):
            name = record.id.rsplit("/", 1)[-1].rsplit("!", 1)[-1]
            known_as = {record.id, record.image_id, id_of(record.extra.get("coco_id")), name, os.path.splitext(name)[0]} - {""}
            if not known_as.isdisjoint(ids):
                rows.append(number)
    return np.array(rows, np.int64)


@dataclass(frozen=True)
class Known:
    """A hash file to compare with: its name in the report, the search limits, and the word that reasons begin with."""

    name: str
    path: Path
    config: DecontaminateConfig
    word: str = "contaminated"


def decontaminate_stage(work: Path, known_sets: list[Known], id_lists: dict[str, str]) -> StageFolder:
    """Drops images of the known sets and id lists; writes the decisions and a report per set to `work/decontaminate`.

    Raises UserError if the dedup stage is not finished or a file cannot be used.
    """
    columns, before = Columns(work), load_stage(work, "dedup")
    sets = [(known, load_hashes(known.name, known.path)) for known in known_sets]
    ids = {name: read_ids(path) for name, path in id_lists.items()}
    digest = xxhash.xxh3_128_hexdigest
    settings = {
        "dedup": before.digest,
        "sets": [[known.name, known.word, asdict(known.config), digest(known.path.read_bytes())] for known, _ in sets],
        "ids": {name: digest("\n".join(sorted(found)).encode()) for name, found in ids.items()},
    }
    stage = open_stage(work, "decontaminate", settings, is_map=False)
    if stage.done:
        return stage
    decisions = Decisions.load(before.folder)
    report: dict[str, Any] = {}
    # Every set is searched in the same rows, so that each set's own count is right; a row's reason is that of the first set.
    rows = np.flatnonzero(decisions.image == KEPT)
    for known, entries in sets:
        report[known.name] = _compare(columns, decisions, rows, known, entries)
    for name, wanted in ids.items():
        found = np.intersect1d(rows_with_ids(columns, wanted), rows)
        decisions.drop_images(found, f"contaminated: {name}: listed id")
        entry = report.setdefault(name, {"pictures": len(wanted), "ways": {}, "examples": [], "set_pictures_found": len(found)})
        entry["ways"]["listed id"] = len(found)
    decisions.save(stage.folder)
    stage.finish({"counts": decisions.counts(), "sets": report})
    return stage


def _compare(columns: Columns, decisions: Decisions, rows: I64, known: Known, entries: HashSet) -> dict[str, Any]:
    ways: dict[str, int] = {}
    examples: list[dict[str, Any]] = []
    touched: set[int] = set()
    for match in find(columns, rows, entries, known.config):
        decisions.drop_images(match.rows, f"{known.word}: {known.name}: {match.how}", None, match.distance)
        ways[match.how] = len(match.rows)
        touched.update(match.entries.tolist())
        for row, place, bits in zip(match.rows[:_EXAMPLES], match.entries, match.distance, strict=False):
            examples.append({"row": int(row), "id": entries.ids[place], "how": match.how, "bits": int(bits)})
    return {"pictures": len(entries), "set_pictures_found": len(touched), "ways": ways, "examples": examples}
