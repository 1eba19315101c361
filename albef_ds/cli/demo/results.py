"""Computes the demonstration's results: metrics of the held-out splits and randomly drawn example queries.

`page.py` and `plots.py` show them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from albef_ds.config.schema import RunConfig
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.data.images.normalise import to_pil_image
from albef_ds.metrics.ranking import Ranking
from albef_ds.metrics.retrieval import SUFFIXES, RetrievalEvaluator, RetrievalScores
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.training.report.metrics_log import MetricsLog

SPLITS = {
    "val": "validation concepts, on which the ranking shown was chosen",
    "test": "held-out concepts, no family of which was trained on",
    "flags": "flags, shown separately since they look alike and their names do not describe them",
}
SHOWN = 5
THUMBNAIL = 72
"""Side of an image on the page in pixels, as in the corpus."""
PREFIX = "retrieval"


@dataclass(frozen=True)
class Item:
    """An image or text of an example; `right` marks a right answer."""

    text: str
    image: Image.Image | None
    right: bool = True


@dataclass(frozen=True)
class Example:
    """A query and its first answers; `rank` is that of the right answer, from 1."""

    query: Item
    answers: tuple[Item, ...]
    rank: int

    @property
    def rank_text(self) -> str:
        """The rank as text."""
        return f"right one: rank {self.rank}"


@dataclass(frozen=True)
class Panel:
    """Examples of one direction: `shown_hits` of the `hits` queries with the right answer in the first five, and others."""

    examples: tuple[Example, ...]
    hits: int
    shown_hits: int
    queries: int

    def caption(self, what: str) -> str:
        """Tells the reader how the examples were drawn."""
        shown_misses = len(self.examples) - self.shown_hits
        return (
            f"Drawn with a fixed seed: {self.shown_hits} of the {self.hits} {what} with the right answer among the first "
            f"{SHOWN}, {shown_misses} of the {self.queries - self.hits} others."
        )


@dataclass(frozen=True)
class DemoReport:
    """Everything on the page."""

    facts: tuple[tuple[str, str], ...]
    """(name, value) pairs that describe the run."""
    metrics: dict[str, dict[str, float]]
    """Split -> metric -> per cent."""
    ranking: Ranking
    """Ranking of the examples: the one with the best mean recall on the validation split."""
    text_to_image: Panel
    image_to_text: Panel
    history: MetricsLog
    files: tuple[tuple[str, str], ...] = ()
    """(path, description) of the run's files."""

    @property
    def order(self) -> str:
        """Tells the reader how the examples are ordered."""
        names = {"itc": "by similarity", "itm": "by ITM", "itm_itc": "by ITM and ITC"}
        return f"ordered {names[self.ranking]}, the ranking of best mean recall on the validation split"


@torch.no_grad()
def score_split(task: PretrainTask, config: RunConfig, folder: Path, device: torch.device, k_test: int) -> RetrievalScores:
    """Scores of the split in `folder`; `task` is on `device`. Raises `UserError` if the split cannot be read."""
    data = RetrievalSet(folder, config.evaluation_data, config.model.vision.image_size)
    evaluator = RetrievalEvaluator(task.model, task.itm_head, data, device, k_test, temperature=float(task.temperature.detach()))
    return evaluator.score()


def best_ranking(metrics: dict[str, float], rankings: Sequence[Ranking]) -> Ranking:
    """The ranking with the highest mean recall."""
    return max(rankings, key=lambda ranking: metrics[f"{PREFIX}/mean_recall{SUFFIXES[ranking]}"])


def make_panels(
    folder: Path, config: RunConfig, scores: RetrievalScores, ranking: Ranking, counts: tuple[int, int], seed: int = 0
) -> tuple[Panel, Panel]:
    """Panels of text to image and image to text with `counts` examples, half of them hits if there are enough."""
    data = RetrievalSet(folder, config.evaluation_data, THUMBNAIL)

    def image_item(row: int) -> Item:
        return Item(data.captions[data.caption_image.tolist().index(row)], to_pil_image(data.images([row])[0]))

    def text_item(row: int) -> Item:
        return Item(data.captions[row], None)

    panels = []
    directions = (counts[0], scores.t2i, text_item, image_item), (counts[1], scores.i2t, image_item, text_item)
    for count, direction, query_item, answer_item in directions:
        ranks, top = direction.ranks(ranking).tolist(), direction.top(ranking, SHOWN).tolist()
        chosen, hits, shown_hits = draw(ranks, count, seed)
        examples = []
        for query in chosen:
            right = direction.right(slice(query, query + 1))[0].tolist()
            answers = tuple(Item(item.text, item.image, right[row]) for row in top[query] for item in [answer_item(row)])
            examples.append(Example(query_item(query), answers, ranks[query] + 1))
        panels.append(Panel(tuple(examples), hits, shown_hits, len(ranks)))
    return panels[0], panels[1]


def draw(ranks: Sequence[int], count: int, seed: int) -> tuple[list[int], int, int]:
    """Draws the queries of a panel with a seed: half from the hits at 5, half from the misses, hits first.

    Returns:
        The queries, the total number of hits, the number of hits drawn.
    """
    hits = [query for query, rank in enumerate(ranks) if rank < SHOWN]
    misses = [query for query, rank in enumerate(ranks) if rank >= SHOWN]
    generator = random.Random(seed)
    num_hits = min(len(hits), max((count + 1) // 2, count - len(misses)))
    num_misses = min(len(misses), count - num_hits)
    return generator.sample(hits, num_hits) + generator.sample(misses, num_misses), len(hits), num_hits


def table(metrics: dict[str, float]) -> list[tuple[str, list[float]]]:
    """Rows of (ranking, [R@1, 5, 10 image to text, then text to image]), chance last."""
    names = {"itc": "similarity (ITC)", "itm": "re-ranked by ITM", "itm_itc": "re-ranked by ITM and ITC"}
    suffixes = [(names[ranking], suffix) for ranking, suffix in SUFFIXES.items()] + [("chance", "_chance")]
    rows = []
    for name, suffix in suffixes:
        keys = [f"{PREFIX}/{direction}_r{k}{suffix}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
        if keys[0] in metrics:
            rows.append((name, [metrics[key] for key in keys]))
    return rows
