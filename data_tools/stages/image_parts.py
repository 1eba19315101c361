"""The tasks of the dedup stage that compare images: each reads the columns of the scan and keeps only the keys of its part.

`bytes` and `pixels`: parts of the hashes. `hashes`: the different perceptual hashes, by parts. `pairs`: near pairs of them, by
choices of blocks and parts of the blocks' values. `look`: parts of the clusters of near hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.config import DedupConfig
from data_tools.execution.executors import Parallel
from data_tools.execution.rounds import load_part, mapped, run_round, save_part
from data_tools.files.storage import save_array
from data_tools.matching import hamming, image_duplicates
from data_tools.matching.distinct import part_of, repeated, starts_of_runs
from data_tools.matching.image_duplicates import Dropped, HashClusters
from data_tools.stages.decisions import KEPT
from data_tools.stages.scan_results import Columns

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
_SIZES = ["width", "height", "num_bytes"]


@dataclass(frozen=True)
class ImageTask:
    """Part `part` of `num_parts` of one round; `images` is the file of the decisions on images before it."""

    work: Path
    parts: Path
    kind: str
    part: int
    num_parts: int
    config: DedupConfig
    number: int = 0
    """Number of the search, for `pairs`."""

    @property
    def output(self) -> Path:
        """The file with the result."""
        return self.parts / f"{self.kind}-{self.number:03d}-{self.part:05d}.npz"

    @property
    def images(self) -> Path:
        """The file of the decisions on images before this round."""
        return self.parts / f"before-{self.kind}.npy"

    def is_mine(self, keys: U64) -> NDArray[np.bool_]:
        """True for the keys of this part."""
        return part_of(keys, self.num_parts) == self.part if self.num_parts > 1 else np.ones(len(keys), np.bool_)


class ImageRounds:
    """Runs the rounds on images of a dedup stage with the parts in the folder `parts`."""

    def __init__(self, work: Path, parts: Path, config: DedupConfig, parallel: Parallel, num_parts: int) -> None:
        self.work, self.parts, self.config, self.parallel, self.num_parts = work, parts, config, parallel, num_parts

    def _run(self, kind: str, function: Any, image: NDArray[np.uint8] | None, numbers: range, num_parts: int) -> list[Any]:
        tasks = [
            ImageTask(self.work, self.parts, kind, part, num_parts, self.config, number)
            for number in numbers
            for part in range(num_parts)
        ]
        if image is not None and not tasks[0].images.exists():
            save_array(tasks[0].images, image)
        run_round(function, tasks, self.parallel, f"dedup, {kind}")
        return [load_part(task.output) for task in tasks]

    def equal(self, kind: str, image: NDArray[np.uint8]) -> tuple[Dropped, Dropped]:
        """Duplicates by `bytes` or `pixels` among the images that are kept in `image`, and among all that were listed."""
        found = self._run(kind, find_equal, image, range(1), self.num_parts)
        return _joined(found, ""), _joined(found, "listed_")

    def near(self, image: NDArray[np.uint8]) -> Dropped:
        """Images that look like others, among the kept ones in `image` that are not flat."""
        if not (self.parts / "clusters.npz").exists():
            found = self._run("hashes", find_hashes, image, range(1), self.num_parts)
            count = sum(len(part["hashes"]) for part in found)
            several = np.concatenate([part["several"] for part in found])
            searches = hamming.searches_of(count, self.config.radius)
            each = -(-self.num_parts // len(searches))
            pairs = hamming.merged(
                [
                    hamming.HashPairs(part["left"], part["right"], int(part["bounded"]), int(part["number"]))
                    for part in self._run("pairs", find_pairs, None, range(len(searches)), each)
                ]
            )
            clusters = image_duplicates.hash_clusters(pairs.left, pairs.right, several)
            bounded = np.array(pairs.bounded_rows)
            save_part(self.parts / "clusters.npz", hashes=clusters.hashes, labels=clusters.labels, bounded=bounded)
        rest = self._run("look", find_alike, image, range(1), self.num_parts)
        not_all = int(load_part(self.parts / "clusters.npz")["bounded"])
        return _joined(rest, "", not_all + sum(int(part["unexamined"]) for part in rest))


def _joined(found: list[dict[str, NDArray[Any]]], prefix: str, unexamined: int = 0) -> Dropped:
    rows, kept, distance = (np.concatenate([part[prefix + name] for part in found]) for name in ("rows", "kept", "distance"))
    return Dropped(rows, kept, distance, unexamined)


def _named(found: Dropped, prefix: str = "") -> dict[str, NDArray[Any]]:
    return {prefix + "rows": found.rows, prefix + "kept": found.kept, prefix + "distance": found.distance}


def find_equal(task: ImageTask) -> None:
    """Finds images with equal bytes or pixels; equal stored pixels with another EXIF orientation are another image."""
    columns, image, lower = Columns(task.work), mapped(task.images), f"{task.kind}_lo"
    rows, keys = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for first, part in columns.parts([lower, "num_bytes"]):
        kept = image[first : first + len(part[lower])] == KEPT
        usable = kept & (part[lower] != 0) if task.kind == "pixels" else kept | (part["num_bytes"] > 0)
        places = np.flatnonzero(usable)
        places = places[task.is_mine(part[lower][places])]
        rows.append(places + first)
        keys.append(part[lower][places])
    several = repeated(np.concatenate(keys), np.concatenate(rows))
    del rows, keys
    values = columns.gather(several, [lower, f"{task.kind}_hi", "orientation", *_SIZES])
    upper = values[f"{task.kind}_hi"]
    if task.kind == "pixels":
        upper = upper ^ values["orientation"].astype(np.uint64)
    rank = image_duplicates.quality_rank(*(values[name] for name in _SIZES))

    def equal(chosen: NDArray[np.bool_]) -> Dropped:
        return image_duplicates.equal(several[chosen], (values[lower][chosen], upper[chosen]), rank[chosen])

    listed = equal(values["num_bytes"] > 0)
    save_part(task.output, **_named(equal(image[several] == KEPT)), **_named(listed, "listed_"))


def _hashes(task: ImageTask, columns: Columns) -> Any:
    """Yields the first row of each chunk, the places in it of the images that are kept and not flat, and their hashes."""
    image = mapped(task.images)
    for first, part in columns.parts(["phash", "variance"]):
        flat = part["variance"] < task.config.min_variance
        places = np.flatnonzero((image[first : first + len(flat)] == KEPT) & ~flat)
        yield first, places, part["phash"][places]


def find_hashes(task: ImageTask) -> None:
    """Finds the different perceptual hashes, and those that several images have."""
    found = [np.zeros(0, np.uint64)]
    for _, _, hashes in _hashes(task, Columns(task.work)):
        found.append(hashes[task.is_mine(hashes)])
    ordered = np.sort(np.concatenate(found))
    found.clear()
    first = starts_of_runs(ordered)
    again = ordered[~first]
    save_part(task.output, hashes=ordered[first], several=again[starts_of_runs(again)])


def find_pairs(task: ImageTask) -> None:
    """Finds the near pairs of one search and part."""
    hashes = np.concatenate([load_part(path)["hashes"] for path in sorted(task.parts.glob("hashes-*.npz"))])
    search = hamming.searches_of(len(hashes), task.config.radius)[task.number]
    found = search.pairs(hashes, task.part, task.num_parts)
    numbers = {"bounded": np.array(found.bounded_rows), "number": np.array(found.number)}
    save_part(task.output, left=found.left, right=found.right, **numbers)


def find_alike(task: ImageTask) -> None:
    """Finds the images of some clusters of near hashes that look like a better one."""
    columns, stored = Columns(task.work), load_part(task.parts / "clusters.npz")
    mine = stored["labels"] % task.num_parts == task.part
    clusters = HashClusters(stored["hashes"][mine], stored["labels"][mine])
    rows, phash, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for first, places, hashes in _hashes(task, columns):
        here, numbers = clusters.places(hashes)
        rows.append(places[here] + first)
        phash.append(hashes[here])
        labels.append(numbers)
    chosen = np.concatenate(rows)
    values = columns.gather(chosen, ["colours", *_SIZES])
    found = image_duplicates.near(
        chosen,
        np.concatenate(phash),
        values["colours"],
        np.concatenate(labels),
        image_duplicates.quality_rank(*(values[name] for name in _SIZES)),
        radius=task.config.radius,
        tolerance=task.config.tolerance,
    )
    save_part(task.output, **_named(found), unexamined=np.array(found.unexamined))
