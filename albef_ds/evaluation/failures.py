"""A page of what retrieval gets wrong: for each failed query what was found instead, and the pairs with the largest loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from albef_ds.common.atomic_files import write_output
from albef_ds.common.html import data_url, document, facts, note
from albef_ds.data.images.normalise import to_pil_image
from albef_ds.data.images.thumbnails import jpeg_of
from albef_ds.metrics.ranking import DirectionScores, Ranking
from albef_ds.metrics.retrieval import RetrievalData, RetrievalScores

LIMIT = 24
"""Default for the failed queries shown of each direction, and for the pairs with the largest loss."""
_FOUND = 4
"""Candidates shown of a failed query."""
_OWN = 10
"""Right texts shown of an image, and characters shown of a text: a page of a large set is no larger than that of a small one."""
_LONGEST = 400
_SIDE = 144  # pixels
_BLOCK = 1024
_STYLE = """
section { border-top: 1px solid var(--line); padding: .8rem 0; display: flex; flex-wrap: wrap; gap: .8rem 1.25rem; }
figure { margin: 0; width: 9rem; }
figure img { width: 9rem; height: 9rem; object-fit: contain; background: #8881; border-radius: 6px; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; } .right figcaption { color: var(--right); }
.right img { outline: 3px solid var(--right); } .query { flex: 0 0 100%; max-width: none; margin: 0; font-weight: 600; }
ol, ul { margin: 0; padding-left: 1.4rem; flex: 1 1 16rem; } li { overflow-wrap: anywhere; } li.right { color: var(--right); }
"""


class Shown(RetrievalData, Protocol):
    """A retrieval set whose texts and images have names."""

    captions: list[str]

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""


def write_failures(path: Path, title: str, data: Shown, scores: RetrievalScores, limit: int = LIMIT) -> int:
    """Writes the page and returns the number of failed queries, whose best right candidate is not the first.

    Args:
        path: the page.
        title: of the page.
        data: the set that was scored.
        scores: its scores; with ITM they are ordered by it.
        limit: failed queries of each direction and pairs that are shown.

    Raises:
        UserError: the page cannot be written, or an image cannot be read again.
    """
    ranking: Ranking = "itc" if scores.t2i.margins is None else "itm"
    ranks = {name: direction.ranks(ranking).cpu() for name, direction in (("t2i", scores.t2i), ("i2t", scores.i2t))}
    failed = {
        name: [query for query in rank.argsort(descending=True, stable=True).tolist() if rank[query] > 0]
        for name, rank in ranks.items()
    }
    pictures = _Pictures(data)
    body = [f"<h1>{escape(title)}</h1>"]
    counts = [
        (f"failed {what}", f"{len(failed[name])} of {len(ranks[name])}") for name, what in (("t2i", "texts"), ("i2t", "images"))
    ]
    body.append(facts([*counts, ("ordered by", ranking.upper())]))
    body.append("<h2>Texts that find another image first</h2>")
    body.append(note(f"The {min(limit, len(failed['t2i']))} whose right image is furthest back; it is outlined in green."))
    body += _texts(failed["t2i"][:limit], ranks["t2i"], ranking, data, scores.t2i, pictures)
    body.append("<h2>Images that find another text first</h2>")
    body.append(note(f"The {min(limit, len(failed['i2t']))} whose best right text is furthest back; right texts are green."))
    body += _images(failed["i2t"][:limit], ranks["i2t"], ranking, data, scores.i2t, pictures)
    body.append("<h2>Pairs with the largest contrastive loss</h2>")
    body.append(note("ITC of the pair among all images and texts of this set, the mean of both directions."))
    body += _losses(limit, data, scores.i2t, pictures)
    write_output(path, document(title, body, _STYLE))
    return sum(map(len, failed.values()))


class _Pictures:
    """Images of the set as figures, each read once."""

    def __init__(self, data: Shown) -> None:
        self._data = data
        self._known: dict[int, str] = {}

    def figure(self, image: int, caption: str, *, right: bool = False) -> str:
        if image not in self._known:
            self._known[image] = data_url(jpeg_of(to_pil_image(self._data.images([image])[0]), _SIDE), "jpeg")
        mark = ' class="right"' if right else ""
        name = escape(str(self._data.keys[image]))
        return f'<figure{mark}><img alt="{name}" src="{self._known[image]}"><figcaption>{_short(caption)}</figcaption></figure>'


def _texts(
    queries: list[int], ranks: Tensor, ranking: Ranking, data: Shown, direction: DirectionScores, pictures: _Pictures
) -> Iterator[str]:
    owners = data.caption_image.tolist()
    for query in queries:
        found = _top(direction, ranking, query)
        figures = [pictures.figure(owners[query], f"right: place {int(ranks[query]) + 1}", right=True)]
        figures += [
            pictures.figure(image, f"{place}. {data.captions[owners.index(image)]}")
            for place, image in enumerate(found, start=1)
            if image != owners[query]
        ]
        yield f'<section><p class="query">{_short(data.captions[query])}</p>{"".join(figures)}</section>'


def _images(
    queries: list[int], ranks: Tensor, ranking: Ranking, data: Shown, direction: DirectionScores, pictures: _Pictures
) -> Iterator[str]:
    owners = data.caption_image.tolist()
    for image in queries:
        found = _top(direction, ranking, image)
        rows = [f"<li{_mark(owners[text] == image)}>{_short(data.captions[text])}</li>" for text in found]
        texts = [text for text, owner in enumerate(owners) if owner == image]
        own = [f"<li class=right>{_short(data.captions[text])}</li>" for text in texts[:_OWN]]
        if len(texts) > _OWN:
            own.append(f"<li class=right>and {len(texts) - _OWN} more</li>")
        figure = pictures.figure(image, f"best right text: place {int(ranks[image]) + 1}")
        yield f"<section>{figure}<ol>{''.join(rows)}</ol><ul>{''.join(own)}</ul></section>"


def _losses(limit: int, data: Shown, i2t: DirectionScores, pictures: _Pictures) -> Iterator[str]:
    losses = pair_losses(i2t)
    owners = data.caption_image.tolist()
    figures = [
        pictures.figure(owners[text], f"{losses[text]:.2f}: {data.captions[text]}")
        for text in losses.argsort(descending=True, stable=True)[:limit].tolist()
    ]
    yield f"<section>{''.join(figures)}</section>"


def pair_losses(i2t: DirectionScores) -> Tensor:
    """Contrastive loss of each caption with its image, float32 (num_captions,) on the CPU: the mean of both directions.

    Other captions of the same image are no wrong answers.
    """
    similarity, owner = i2t.similarity / i2t.temperature, i2t.candidate_image
    own = similarity.gather(0, owner[None])[0]
    over_images = similarity.logsumexp(dim=0)
    over_texts = torch.empty_like(own)
    for start in range(0, len(similarity), _BLOCK):
        rows = similarity[start : start + _BLOCK]
        images = torch.arange(start, start + len(rows), device=rows.device)
        right = images[:, None] == owner
        wrong = rows.masked_fill(right, float("-inf")).logsumexp(dim=1)
        texts = right.any(dim=0).nonzero()[:, 0]
        over_texts[texts] = torch.logaddexp(own[texts], wrong[owner[texts] - start])
    return ((over_images + over_texts) / 2 - own).float().cpu()


def _top(direction: DirectionScores, ranking: Ranking, query: int) -> list[int]:
    """The first candidates of one query."""
    rows = slice(query, query + 1)
    found: list[int] = direction.scores(ranking, rows)[0].topk(min(_FOUND, direction.similarity.shape[1])).indices.tolist()
    return found


def _short(text: str) -> str:
    """The beginning of a text, as HTML."""
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _mark(right: bool) -> str:
    return " class=right" if right else ""
