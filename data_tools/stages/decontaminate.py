"""Drops training images that are also in an evaluation set, or that a corpus already holds (`append`).

Images are matched by bytes, pixels, perceptual hash or listed ids.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from data_tools.config import DecontaminateConfig
from data_tools.execution.executors import ONE, Parallel
from data_tools.execution.rounds import (
    check_settings,
    load_part,
    num_partitions,
    open_reduction,
    parts_folder,
    run_round,
    run_shared,
    save_part,
)
from data_tools.execution.stage_folder import StageFolder, load_stage, read_array
from data_tools.files.storage import open_source
from data_tools.matching.hamming import cross_pairs
from data_tools.readers.source import id_of, id_of_text
from data_tools.stages.decisions import IMAGE_FILE, KEPT, Decisions
from data_tools.stages.hash_files import HashSet, load_hashes
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
_EXAMPLES = 12
_WAYS = ("same bytes", "same pixels", "looks the same")
_ROWS = 1 << 22
"""Rows that are searched at once."""


@dataclass(frozen=True)
class Match:
    """Training `rows` found in a set in the way `how`, the `entries` of the set they match, and the hash distances in bits."""

    how: str
    rows: I64
    entries: I64
    distance: NDArray[np.int16]


def find(columns: Columns, rows: I64, known: HashSet, config: DecontaminateConfig) -> list[Match]:
    """Finds those of `rows` (ascending) that are in `known`; a row appears only under the first way that finds it."""
    values = columns.gather(rows, ["bytes_lo", "bytes_hi", "pixels_lo", "pixels_hi", "variance", "phash"])
    matches = []
    for how, lower, upper in (("same bytes", "bytes_lo", "bytes_hi"), ("same pixels", "pixels_lo", "pixels_hi")):
        low, high = values[lower], values[upper]
        order = np.argsort(known.numbers[lower], kind="stable")
        place = np.minimum(np.searchsorted(known.numbers[lower], low, sorter=order), max(len(order) - 1, 0))
        entries = order[place] if len(order) else np.zeros(len(rows), np.int64)
        hit = (low != 0) & (known.numbers[lower][entries] == low) & (known.numbers[upper][entries] == high)
        matches.append(Match(how, rows[hit], entries[hit], np.zeros(int(hit.sum()), np.int16)))
        rows, values = rows[~hit], {name: value[~hit] for name, value in values.items()}
    if config.radius >= 0:
        varied = values["variance"] >= config.min_variance
        rows, phash = rows[varied], values["phash"][varied]
        usable = np.flatnonzero(known.numbers["variance"] >= config.min_variance)
        left, right, distance = cross_pairs(known.numbers["phash"][usable], phash, config.radius)
        candidates, inverse = np.unique(rows[right], return_inverse=True)
        fields = columns.gather(candidates, ["colours"])["colours"][inverse].astype(np.int16)
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


def rows_with_ids(columns: Columns, ids: set[str], chunks: range) -> I64:
    """Rows of some chunks whose image id, COCO id, listed path, file name or file stem is in `ids`; deliberately broad."""
    rows = []
    for chunk in columns.catalog.chunks[chunks.start : chunks.stop]:
        table = columns.catalog.read(chunk, ["id", "image_id", "extra"])
        values = zip(*(table[name].to_pylist() for name in ("id", "image_id", "extra")), strict=True)
        for number, (listed, image_id, extra) in enumerate(values, start=chunk.first_row):
            name = listed.rsplit("/", 1)[-1].rsplit("!", 1)[-1]
            coco = id_of(json.loads(extra).get("coco_id")) if extra else ""
            known_as = {listed, image_id, coco, name, os.path.splitext(name)[0]} - {""}
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


@dataclass(frozen=True)
class _Task:
    """The search of all sets and lists in some chunks."""

    work: Path
    parts: Path
    number: int
    chunks: range
    known_sets: tuple[Known, ...]
    id_lists: tuple[str, ...]

    @property
    def output(self) -> Path:
        return self.parts / f"block-{self.number:05d}.npz"


def decontaminate_stage(
    work: Path, known_sets: list[Known], id_lists: dict[str, str], parallel: Parallel = ONE, partitions: int = 0
) -> StageFolder:
    """Drops images of the known sets and id lists; writes the decisions and a report per set to `work/decontaminate`.

    `partitions` are blocks of rows that the tasks which `parallel` runs search; the result does not depend on it.
    Raises UserError if the dedup stage is not finished or a file cannot be used.
    """
    columns, before = Columns(work), load_stage(work, "dedup")
    sizes = {known.name: len(load_hashes(known.name, known.path)) for known in known_sets}
    ids = {name: read_ids(path) for name, path in id_lists.items()}
    digest = xxhash.xxh3_128_hexdigest
    settings = {
        "dedup": before.digest,
        "sets": [[known.name, known.word, asdict(known.config), digest(known.path.read_bytes())] for known in known_sets],
        "ids": {name: digest("\n".join(sorted(found)).encode()) for name, found in ids.items()},
    }
    num_parts = num_partitions(partitions, columns.num_rows, parallel)
    stage = open_reduction(work, "decontaminate", settings, parallel)
    parts = parts_folder(stage, num_parts)

    def reduce() -> dict[str, Any]:
        lists = tuple(id_lists.values())
        blocks = enumerate(columns.blocks(num_parts))
        tasks = [_Task(work, parts, number, chunks, tuple(known_sets), lists) for number, chunks in blocks]
        decisions = Decisions.load(before.folder)
        if known_sets or id_lists:
            run_round(_search, tasks, parallel, "decontaminate")
            found = [load_part(task.output) for task in tasks]
        report: dict[str, Any] = {}
        for number, known in enumerate(known_sets):
            matches = [_joined(found, f"{number} {how}", how) for how in _WAYS if f"{number} {how} rows" in found[0]]
            report[known.name] = _compare(decisions, matches, known, sizes[known.name])
        for number, (name, wanted) in enumerate(ids.items()):
            rows = np.concatenate([part[f"ids {number}"] for part in found])
            decisions.drop_images(rows, f"contaminated: {name}: listed id")
            entry = report.setdefault(
                name, {"pictures": len(wanted), "ways": {}, "examples": [], "set_pictures_found": len(rows)}
            )
            entry["ways"]["listed id"] = len(rows)
        check_settings(stage)
        decisions.save(stage.folder)
        return {"counts": decisions.counts(), "sets": report}

    run_shared(stage, reduce)
    return stage


def _search(task: _Task) -> None:
    columns, found = Columns(task.work), dict[str, NDArray[Any]]()
    image = read_array(load_stage(task.work, "dedup").folder, f"{IMAGE_FILE}.npy")
    first = columns.catalog.chunks[task.chunks.start].first_row
    last = columns.catalog.chunks[task.chunks.stop - 1]
    # Every set is searched in the same rows, so that each set's own count is right; a row's reason is that of the first set.
    rows = np.flatnonzero(image[first : last.first_row + last.num_rows] == KEPT) + first
    del image
    for number, known in enumerate(task.known_sets):
        entries = load_hashes(known.name, known.path)
        pieces = [find(columns, rows[i : i + _ROWS], entries, known.config) for i in range(0, max(len(rows), 1), _ROWS)]
        for matches in zip(*pieces, strict=True):
            key = f"{number} {matches[0].how}"
            for name in ("rows", "entries", "distance"):
                found[f"{key} {name}"] = np.concatenate([getattr(match, name) for match in matches])
    for number, path in enumerate(task.id_lists):
        found[f"ids {number}"] = np.intersect1d(rows_with_ids(columns, read_ids(path), task.chunks), rows)
    save_part(task.output, **found)


def _joined(found: list[dict[str, NDArray[Any]]], key: str, how: str) -> Match:
    return Match(how, *(np.concatenate([part[f"{key} {name}"] for part in found]) for name in ("rows", "entries", "distance")))


def _compare(decisions: Decisions, matches: list[Match], known: Known, size: int) -> dict[str, Any]:
    ways: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    touched: set[int] = set()
    for match in matches:
        decisions.drop_images(match.rows, f"{known.word}: {known.name}: {match.how}", None, match.distance)
        ways[match.how] = len(match.rows)
        touched.update(match.entries.tolist())
        for row, place, bits in zip(match.rows[:_EXAMPLES], match.entries, match.distance, strict=False):
            found.append({"row": int(row), "id": int(place), "how": match.how, "bits": int(bits)})
    names = load_hashes(known.name, known.path).ids
    examples = [{**example, "id": names[example["id"]].as_py()} for example in found]
    return {"pictures": size, "set_pictures_found": len(touched), "ways": ways, "examples": examples}
