"""What the demonstration shows: metrics of the held-out splits and example queries, drawn and not picked.

Computes and gathers; `page.py` and `plots.py` draw.
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
    "flags": "flags, apart since they look alike and their names say little about them",
}
SHOWN = 5
THUMBNAIL = 72
"""Side of a picture on the page, pixels; that of the corpus."""
PREFIX = "retrieval"


@dataclass(frozen=True)
class Item:
    """A picture or a text among the examples."""

    text: str
    picture: Image.Image | None
    right: bool = True


@dataclass(frozen=True)
class Example:
    """A query and its first answers; `rank` of the right one counts from 1."""

    query: Item
    answers: tuple[Item, ...]
    rank: int


@dataclass(frozen=True)
class Panel:
    """Examples of one direction: `shown_hits` of `hits` queries with the right answer in the first five, and of the rest."""

    examples: tuple[Example, ...]
    hits: int
    shown_hits: int
    queries: int

    def caption(self, what: str) -> str:
        """How the examples came about, for the reader."""
        shown_misses = len(self.examples) - self.shown_hits
        return (
            f"Drawn with a fixed seed: {self.shown_hits} of the {self.hits} {what} with the right answer among the first "
            f"{SHOWN}, {shown_misses} of the {self.queries - self.hits} others."
        )


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    facts: tuple[tuple[str, str], ...]
    """Name and value of what describes the run."""
    metrics: dict[str, dict[str, float]]
    """Split -> metric -> per cent."""
    ranking: Ranking
    """What the examples are ordered by: best mean recall on the validation split."""
    words_to_pictures: Panel
    pictures_to_words: Panel
    history: MetricsLog
    files: tuple[tuple[str, str], ...] = ()
    """Path and what it is."""

    @property
    def order(self) -> str:
        """By what the examples are ordered, for the reader."""
        names = {"itc": "by similarity", "itm": "by ITM", "itm_itc": "by ITM and ITC"}
        return f"ordered {names[self.ranking]}, the ranking of best mean recall on the validation split"


@torch.no_grad()
def score_split(task: PretrainTask, config: RunConfig, folder: Path, device: torch.device, k_test: int) -> RetrievalScores:
    """Scores of one split of the corpus; the task is on `device`. Raises `UserError` if it cannot be read."""
    data = RetrievalSet(folder, config.data, config.model.vision.image_size)
    evaluator = RetrievalEvaluator(task.model, task.itm_head, data, device, k_test, temperature=float(task.temperature.detach()))
    return evaluator.score()


def best_ranking(metrics: dict[str, float], rankings: Sequence[Ranking]) -> Ranking:
    """The ranking of highest mean recall."""
    return max(rankings, key=lambda ranking: metrics[f"{PREFIX}/mean_recall{SUFFIXES[ranking]}"])


def make_panels(
    folder: Path, config: RunConfig, scores: RetrievalScores, ranking: Ranking, counts: tuple[int, int], seed: int = 0
) -> tuple[Panel, Panel]:
    """Words to pictures and pictures to words, `counts` examples of each, half of them hits where there are as many."""
    data = RetrievalSet(folder, config.data, THUMBNAIL)

    def picture(row: int) -> Item:
        return Item(data.captions[data.caption_image.tolist().index(row)], to_pil_image(data.images([row])[0]))

    def words(row: int) -> Item:
        return Item(data.captions[row], None)

    panels = []
    for count, direction, ask, answer in ((counts[0], scores.t2i, words, picture), (counts[1], scores.i2t, picture, words)):
        ranks, top = direction.ranks(ranking).tolist(), direction.top(ranking, SHOWN).tolist()
        chosen, hits, shown_hits = draw(ranks, count, seed)
        examples = []
        for query in chosen:
            right = direction.right(slice(query, query + 1))[0].tolist()
            answers = tuple(Item(item.text, item.picture, right[row]) for row in top[query] for item in [answer(row)])
            examples.append(Example(ask(query), answers, ranks[query] + 1))
        panels.append(Panel(tuple(examples), hits, shown_hits, len(ranks)))
    return panels[0], panels[1]


def draw(ranks: Sequence[int], count: int, seed: int) -> tuple[list[int], int, int]:
    """Queries for a panel: a seeded draw, half from the hits at 5 and half from the misses, hits first.

    Returns:
        The queries, the number of hits in all, the number of hits drawn.
    """
    hits = [query for query, rank in enumerate(ranks) if rank < SHOWN]
    misses = [query for query, rank in enumerate(ranks) if rank >= SHOWN]
    generator = random.Random(seed)
    num_hits = min(len(hits), max((count + 1) // 2, count - len(misses)))
    num_misses = min(len(misses), count - num_hits)
    return generator.sample(hits, num_hits) + generator.sample(misses, num_misses), len(hits), num_hits


def table(metrics: dict[str, float]) -> list[tuple[str, list[float]]]:
    """Rows of (ranking, R@1, 5, 10 image to text, then text to image), chance last."""
    names = {"itc": "similarity (ITC)", "itm": "re-ranked by ITM", "itm_itc": "re-ranked by ITM and ITC"}
    suffixes = [(names[ranking], suffix) for ranking, suffix in SUFFIXES.items()] + [("chance", "_chance")]
    rows = []
    for name, suffix in suffixes:
        keys = [f"{PREFIX}/{direction}_r{k}{suffix}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
        if keys[0] in metrics:
            rows.append((name, [metrics[key] for key in keys]))
    return rows
