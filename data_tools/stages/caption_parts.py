"""The tasks of the dedup stage that compare captions: each reads the columns of the scan and keeps only the keys of its part.

`texts`: parts of the hashes of texts. `sets`: blocks of the catalog, whose texts become sets of words. `bands`: MinHash bands and
parts of their keys. `similar`: ranges of captions, whose candidate pairs are verified.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.content.captions import NUM_BANDS
from data_tools.execution.executors import Parallel
from data_tools.execution.rounds import load_part, mapped, run_round, save_part
from data_tools.files.storage import save_array, save_atomically
from data_tools.matching.caption_duplicates import TextClusters, candidates, ends, keyed, text_clusters
from data_tools.matching.caption_sets import Sets, distinct_numbers, sets_of, similar
from data_tools.matching.distinct import distinct, leaders_of, part_of, repeated, starts_of_runs
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
_PAIRS = 1 << 19
"""Candidate pairs that are verified at once."""


@dataclass(frozen=True)
class CaptionTask:
    """Part `part` of `num_parts` of one round."""

    work: Path
    parts: Path
    kind: str
    part: int
    num_parts: int
    number: int = 0
    """Number of the band, for `bands`."""
    first: int = 0
    """First caption, or first chunk for `sets`."""
    last: int = 0
    """The caption or chunk after the last one."""
    threshold: float = 0.0
    first_caption: int = 0

    @property
    def output(self) -> Path:
        """The file with the result."""
        ending = "npy" if self.kind == "bands" else "npz"
        return self.parts / f"{self.kind}-{self.number:03d}-{self.part:05d}.{ending}"

    @property
    def captions(self) -> Path:
        """The file with the mask of the captions that are compared."""
        return self.parts / ("alive.npy" if self.kind == "texts" else "unique.npy")

    @property
    def members(self) -> Path:
        """The file of the sets' members, for `sets`."""
        return self.parts / f"members-{self.part:05d}.bin"


class CaptionRounds:
    """Runs the rounds on captions of a dedup stage with the parts in the folder `parts`."""

    def __init__(self, work: Path, parts: Path, threshold: float, parallel: Parallel, num_parts: int) -> None:
        self.work, self.parts, self.threshold, self.parallel, self.num_parts = work, parts, threshold, parallel, num_parts

    def _run(self, function: Any, tasks: list[CaptionTask]) -> list[CaptionTask]:
        run_round(function, tasks, self.parallel, f"dedup, {tasks[0].kind}")
        return tasks

    def clusters(
        self, columns: Columns, alive: NDArray[np.bool_], first_captions: list[int]
    ) -> tuple[TextClusters, dict[str, int]]:
        """Clusters of captions among those `alive` (C,) that say the same or nearly so, and figures for the report.

        `first_captions` has the number of the first caption of each chunk.
        """
        work, parts, count = self.work, self.parts, self.num_parts
        if not (parts / "alive.npy").exists():
            save_array(parts / "alive.npy", alive)
        tasks = self._run(find_texts, [CaptionTask(work, parts, "texts", part, count) for part in range(count)])
        texts = [load_part(task.output) for task in tasks]
        repeats, firsts = (np.concatenate([found[name] for found in texts]) for name in ("repeats", "firsts"))
        num_texts = int(np.count_nonzero(alive)) - len(repeats)
        figures = {"distinct_captions": num_texts}
        if self.threshold >= 1:
            return text_clusters(repeats, firsts, np.zeros(0, np.uint64), num_texts), figures
        unique = alive.copy()
        unique[repeats] = False
        if not (parts / "unique.npy").exists():
            save_array(parts / "unique.npy", unique)
        del unique
        blocks = []
        for part, chunks in enumerate(columns.blocks(count)):
            begin = first_captions[chunks.start]
            task = CaptionTask(work, parts, "sets", part, count, 0, chunks.start, chunks.stop, first_caption=begin)
            blocks.append(task)
        self._run(write_sets, blocks)
        each = -(-count // NUM_BANDS)
        numbers = [(band, part) for band in range(NUM_BANDS) for part in range(each)]
        self._run(find_candidates, [CaptionTask(work, parts, "bands", part, each, band) for band, part in numbers])
        bounds = [columns.num_captions * part // count for part in range(count + 1)]
        ranges = enumerate(pairwise(bounds))
        tasks = [CaptionTask(work, parts, "similar", p, count, 0, low, high, self.threshold) for p, (low, high) in ranges]
        verified = [load_part(task.output) for task in self._run(find_similar, tasks)]
        pairs = np.concatenate([found["pairs"] for found in verified])
        clusters = text_clusters(repeats, firsts, pairs, num_texts)
        figures |= {"caption_pairs_compared": sum(int(found["compared"]) for found in verified)}
        return clusters, figures | {"caption_pairs_alike": len(pairs), "caption_clusters": clusters.num_clusters}


def find_texts(task: CaptionTask) -> None:
    """Finds the captions that say the same as an earlier one, and the first one with that text."""
    alive = mapped(task.captions)
    numbers, keys = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for first, part in Columns(task.work).parts(["text_hash"], captions=True):
        hashes = part["text_hash"]
        places = np.flatnonzero(alive[first : first + len(hashes)])
        if task.num_parts > 1:
            places = places[part_of(hashes[places], task.num_parts) == task.part]
        numbers.append(places + first)
        keys.append(hashes[places])
    joined = np.concatenate(numbers)
    hashes = np.concatenate(keys)
    del numbers, keys
    several = repeated(hashes, joined)
    hashes = hashes[np.searchsorted(joined, several)]
    order = np.lexsort((several, hashes))
    ordered, first_of = several[order], starts_of_runs(hashes[order])
    save_part(task.output, repeats=ordered[~first_of], firsts=leaders_of(ordered, first_of)[~first_of])


def write_sets(task: CaptionTask) -> None:
    """Writes the sets of the different texts of some chunks: the members, and where those of each caption begin."""
    columns, unique = Columns(task.work), mapped(task.captions)
    starts: list[I64] = [np.zeros(1, np.int64)]
    first, written = task.first_caption, 0

    def write(file: Any) -> None:
        nonlocal first, written
        for chunk in columns.catalog.chunks[task.first : task.last]:
            texts = columns.catalog.read(chunk, ["captions"])["captions"].combine_chunks().flatten()
            places = np.flatnonzero(unique[first : first + len(texts)])
            sets = sets_of(texts.take(places))
            file.write(sets.members.tobytes())
            counts = np.zeros(len(texts), np.int64)
            counts[places] = sets.counts
            starts.append(written + np.cumsum(counts))
            written += len(sets.members)
            first += len(texts)

    save_atomically(task.members, write)
    save_array(task.parts / f"starts-{task.part:05d}.npy", np.concatenate(starts))
    save_part(task.output, first=np.array(task.first_caption))


class StoredSets:
    """The sets that `write_sets` wrote, read from disk by caption."""

    def __init__(self, parts: Path) -> None:
        names = sorted(parts.glob("sets-*.npz"))
        self._firsts = np.array([int(load_part(name)["first"]) for name in names])
        self._starts = [mapped(parts / f"starts-{number:05d}.npy") for number in range(len(names))]
        self._files = [open(parts / f"members-{number:05d}.bin", "rb") for number in range(len(names))]  # noqa: SIM115

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    def take(self, captions: I64) -> Sets:
        """The sets of `captions` (ascending)."""
        members: list[NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
        counts: list[I64] = [np.zeros(0, np.int64)]
        bounds = [*np.searchsorted(captions, self._firsts).tolist(), len(captions)]
        for number, (low, high) in enumerate(pairwise(bounds)):
            local = captions[low:high] - self._firsts[number]
            begin, size = self._starts[number][local], self._starts[number][local + 1] - self._starts[number][local]
            counts.append(size)
            if size.any():
                places = np.arange(size.sum()) + np.repeat(begin - (np.cumsum(size) - size), size)
                # Mapped for this call only, so that pages that were read do not count as this process's memory.
                with mmap.mmap(self._files[number].fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                    content = np.frombuffer(mapping, np.uint32)
                    members.append(content[places])
                    del content
        starts = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
        return Sets(np.concatenate(members), starts)


def find_candidates(task: CaptionTask) -> None:
    """Finds the pairs of different texts that share the key of one band."""
    unique, name = mapped(task.captions), f"band_{task.number:02d}"
    found = [np.zeros(0, np.uint64)]
    for first, part in Columns(task.work).parts([name], captions=True):
        places = np.flatnonzero(unique[first : first + len(part[name])])
        if task.num_parts > 1:
            places = places[part_of(part[name][places].astype(np.uint64), task.num_parts) == task.part]
        found.append(keyed(part[name][places], places + first))
    packed = np.concatenate(found)
    found.clear()
    save_array(task.output, candidates(packed))


def find_similar(task: CaptionTask) -> None:
    """Verifies the candidate pairs whose left caption is in this task's range."""
    bands = [mapped(path) for path in sorted(task.parts.glob("bands-*.npy"))]
    total = sum(_between(band, task.first, task.last)[1] for band in bands)
    sets = StoredSets(task.parts)
    found, compared = [np.zeros(0, np.uint64)], 0
    steps = -(-total // _PAIRS) or 1
    bounds = [task.first + (task.last - task.first) * step // steps for step in range(steps + 1)]
    for low, high in pairwise(bounds):
        pairs = distinct(np.concatenate([_between(band, low, high)[0] for band in bands]))
        compared += len(pairs)
        left, right = ends(pairs)
        captions = distinct_numbers(left - low, right - low, int(right.max(initial=low)) - low + 1) + low
        place = [np.searchsorted(captions, side) for side in (left, right)]
        found.append(pairs[similar(sets.take(captions), place[0], place[1], task.threshold)])
    sets.close()
    save_part(task.output, pairs=np.concatenate(found), compared=np.array(compared))


def _between(pairs: U64, low: int, high: int) -> tuple[U64, int]:
    """Those of the sorted `pairs` whose left caption is from `low` to before `high`, and their number."""
    begin, end = np.searchsorted(pairs, np.array([low, high], np.uint64) << np.uint64(32))
    return pairs[begin:end], int(end - begin)
