"""Ranks images by a query of words and images, each wanted or unwanted: ITC over all, then ITM over the best. Knows no HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.search import Hit

_SLICE = 8
"""Images that are judged between two calls of `between`."""
_LEAST = 1e-12
"""Smallest probability whose logarithm is taken."""


@dataclass(frozen=True)
class Term:
    """One part of a query."""

    feature: Tensor
    """float32 (embed_dim,), unit length: of a text or an image."""
    wanted: bool = True
    text: str = ""
    """The words, which ITM judges; empty for an image."""


def combined(terms: Sequence[Term]) -> Tensor:
    """The unit vector along the sum of wanted features minus the sum of unwanted ones, float32 (embed_dim,).

    Raises `ConfigError` if there is no term or the terms cancel each other.
    """
    if not terms:
        raise ConfigError("the query is empty: give words or an image")
    total = sum((term.feature if term.wanted else -term.feature for term in terms[1:]), start=_signed(terms[0]))
    if float(total.norm()) < 1e-6:
        raise ConfigError("the parts of the query cancel each other: leave one of them out")
    return F.normalize(total, dim=0)


def rank(
    model: AlbefModel,
    terms: Sequence[Term],
    paths: Sequence[Path],
    features: Tensor,
    *,
    top: int,
    rerank: int,
    between: Callable[[], None] = lambda: None,
) -> list[Hit]:
    """The `top` images for `terms`: the `rerank` most similar are ordered by ITM, the rest follow by similarity.

    A hit's `match` is the probability that all wanted texts and none of the unwanted ones match the image (their product);
    None without a text. An image that can no longer be read is left out.

    Args:
        model: has ITC features and an ITM head.
        terms: the query.
        paths: N images.
        features: float32 (N, embed_dim), unit length.
        top: number of hits.
        rerank: number of images that ITM judges.
        between: is called between batches of ITM; what it raises ends the ranking.

    Raises:
        UserError: as `combined`, or nothing is left of a text after cleaning.
    """
    similarity = features @ combined(terms)
    order = similarity.argsort(descending=True, stable=True).tolist()[: max(top, rerank)]
    judged = order[:rerank] if any(term.text for term in terms) else []
    matches: dict[int, float] = {}
    for start in range(0, len(judged), _SLICE):
        between()
        part = judged[start : start + _SLICE]
        matches.update(_readable(model, terms, [(row, paths[row]) for row in part]))
    best = sorted(matches, key=lambda row: (-matches[row], -float(similarity[row]), row))
    ranked = best + order[len(judged) :]
    return [_hit(paths[row], float(similarity[row]), matches.get(row)) for row in ranked[:top]]


def _signed(term: Term) -> Tensor:
    return term.feature if term.wanted else -term.feature


def _hit(path: Path, similarity: float, log_match: float | None) -> Hit:
    return Hit(path, similarity, None if log_match is None else math.exp(log_match))


def _readable(model: AlbefModel, terms: Sequence[Term], rows: list[tuple[int, Path]]) -> list[tuple[int, float]]:
    """(row, log probability) of the images that can be read."""
    try:
        return list(zip([row for row, _ in rows], _judge(model, terms, [path for _, path in rows]), strict=True))
    except DataError:
        return [] if len(rows) == 1 else [found for row in rows for found in _readable(model, terms, [row])]


def _judge(model: AlbefModel, terms: Sequence[Term], paths: list[Path]) -> list[float]:
    """Log probability of each image that every wanted text and no unwanted one matches it."""
    spoken = [term for term in terms if term.text]
    if len(spoken) == 1:
        columns = [[value] for value in model.match(list(paths), [spoken[0].text] * len(paths)).tolist()]
    else:
        columns = [model.match(path, [term.text for term in spoken]).tolist() for path in paths]
    return [
        sum(math.log(max(value if term.wanted else 1 - value, _LEAST)) for value, term in zip(values, spoken, strict=True))
        for values in columns
    ]
