"""Ranks images by a query of words and images, each wanted or unwanted: ITC over all, then ITM over the best. Knows no HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.inference.inputs import ImageInput
from albef_ds.inference.kept_tokens import KeptTokens
from albef_ds.inference.model import AlbefModel

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


class Searched(Protocol):
    """Images that have features."""

    def nearest(self, query: Tensor, k: int) -> list[tuple[int, float]]:
        """(place, similarity) of the `k` most similar ones, best first."""

    def image(self, place: int) -> ImageInput | None:
        """What the model reads; None if it may not be read any more."""


@dataclass(frozen=True)
class Ranked:
    """One image of the ranking; `match` is None if ITM did not judge it."""

    place: int
    similarity: float
    match: float | None


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
    images: Searched,
    *,
    top: int,
    rerank: int,
    kept: KeptTokens | None = None,
    between: Callable[[], None] = lambda: None,
) -> list[Ranked]:
    """The `top` images for `terms`: the `rerank` most similar are ordered by ITM, the rest follow by similarity.

    A hit's `match` is the probability that all wanted texts and none of the unwanted ones match the image (their product);
    None without a text. An image that can no longer be read is left out.

    Args:
        model: has ITC features and an ITM head.
        terms: the query.
        images: are searched.
        top: number of hits.
        rerank: number of images that ITM judges.
        kept: tokens of images that were judged before.
        between: is called between batches of ITM; what it raises ends the ranking.

    Raises:
        UserError: as `combined`, or nothing is left of a text after cleaning.
    """
    found = images.nearest(combined(terms), max(top, rerank))
    judged = found[:rerank] if any(term.text for term in terms) else []
    matches: dict[int, float] = {}
    for start in range(0, len(judged), _SLICE):
        between()
        part = [(place, image) for place, _ in judged[start : start + _SLICE] if (image := images.image(place)) is not None]
        matches.update(_readable(model, terms, part, kept))
    similarity = dict(found)
    best = sorted(matches, key=lambda place: (-matches[place], -similarity[place], place))
    ranked = best + [place for place, _ in found[len(judged) :]]
    return [Ranked(place, similarity[place], _probability(matches.get(place))) for place in ranked[:top]]


def _signed(term: Term) -> Tensor:
    return term.feature if term.wanted else -term.feature


def _probability(log_match: float | None) -> float | None:
    return None if log_match is None else math.exp(log_match)


def _readable(
    model: AlbefModel, terms: Sequence[Term], part: list[tuple[int, ImageInput]], kept: KeptTokens | None
) -> list[tuple[int, float]]:
    """(place, log probability) of the images that can be read."""
    try:
        judged = _judge(model, terms, [image for _, image in part], kept)
        return list(zip([place for place, _ in part], judged, strict=True))
    except DataError:
        return [] if len(part) == 1 else [found for one in part for found in _readable(model, terms, [one], kept)]


def _judge(model: AlbefModel, terms: Sequence[Term], images: list[ImageInput], kept: KeptTokens | None) -> list[float]:
    """Log probability of each image that every wanted text and no unwanted one matches it."""
    if not images:
        return []
    spoken = [term for term in terms if term.text]
    rows = [model.match(images, [term.text] * len(images), kept=kept).tolist() for term in spoken]
    columns = list(zip(*rows, strict=True))
    return [
        sum(math.log(max(value if term.wanted else 1 - value, _LEAST)) for value, term in zip(values, spoken, strict=True))
        for values in columns
    ]
