"""Highest possible scores of models that lack a capability, counted from equivalence classes.

A view is the part of a sample that such a model perceives. Samples with equal views get the same answer, so within each class
at most the most frequent answer is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from data_tools.scenes.meanings import Meaning
from data_tools.scenes.questions import population
from data_tools.scenes.statements import Expression, PairStatement, ScreenStatement


def answer_ceiling(samples: Iterable[tuple[Hashable, Hashable, float]]) -> float:
    """Highest accuracy in per cent: each class of equal views gets its heaviest answer. `samples` are (view, answer, weight)."""
    weights: dict[Hashable, dict[Hashable, float]] = defaultdict(lambda: defaultdict(float))
    for view, answer, weight in samples:
        weights[view][answer] += weight
    total = sum(weight for answers in weights.values() for weight in answers.values())
    return 100.0 * sum(max(answers.values()) for answers in weights.values()) / total


def retrieval_ceiling(views: Sequence[Hashable]) -> float:
    """Highest R@1 in per cent with one right item per query: one of the n items of a class of equal views is right."""
    return 100.0 * len(set(views)) / len(views)


def bag(meaning: Meaning) -> Hashable:
    """Colours and shapes without their binding to objects."""
    return tuple(sorted(t.colour for t in meaning.things)), tuple(sorted(t.shape for t in meaning.things))


def axis(meaning: Meaning) -> str:
    """The information in a relation word when half of the captions are mirrored."""
    return "horizontal" if meaning.relation in ("left of", "right of") else "vertical"


RETRIEVAL_VIEWS: dict[str, Callable[[Meaning], Hashable]] = {
    "everything": lambda meaning: meaning,
    "objects and axis, no side": lambda meaning: (meaning.things, axis(meaning)),
    "objects, no relation": lambda meaning: meaning.things,
    "relation words, no binding": lambda meaning: (bag(meaning), axis(meaning)),
    "colours and shapes": bag,
    "colours": lambda meaning: tuple(sorted(thing.colour for thing in meaning.things)),
}


def retrieval_ceilings(gallery: Sequence[Meaning]) -> dict[str, float]:
    """R@1 in per cent on a gallery with one image per meaning."""
    return {name: retrieval_ceiling([view(meaning) for meaning in gallery]) for name, view in RETRIEVAL_VIEWS.items()}


def vqa_ceilings() -> dict[str, float]:
    """Accuracy in per cent over all possible scenes and questions."""
    rows = list(population())
    return {
        "everything": answer_ceiling(((q.text, m, sizes), q.answer, w) for m, sizes, q, w in rows),
        "objects, no relation, no size": answer_ceiling(((q.text, m.things), q.answer, w) for m, _, q, w in rows),
        "colours and shapes": answer_ceiling(((q.text, bag(m)), q.answer, w) for m, _, q, w in rows),
        "question alone": answer_ceiling((q.text, q.answer, w) for _, _, q, w in rows),
    }


def nlvr_ceilings(samples: Sequence[PairStatement]) -> dict[str, float]:
    """Accuracy in per cent on these samples."""
    return {
        "everything": answer_ceiling(((s.sentence, s.scenes), s.label, 1.0) for s in samples),
        "objects, no relation": answer_ceiling((s.objects, s.label, 1.0) for s in samples),
        "text alone": answer_ceiling((s.sentence, s.label, 1.0) for s in samples),
    }


def entailment_ceilings(samples: Sequence[ScreenStatement]) -> dict[str, float]:
    """Accuracy in per cent on these samples."""
    return {
        "everything": answer_ceiling(((s.sentence, s.visible, s.visible_spot), s.label, 1.0) for s in samples),
        "object, no place": answer_ceiling((s.visible == s.claimed, s.label, 1.0) for s in samples),
        "place, no object": answer_ceiling((s.visible_spot == s.spot, s.label, 1.0) for s in samples),
        "hypothesis alone": answer_ceiling((s.sentence, s.label, 1.0) for s in samples),
    }


def grounding_ceilings(samples: Sequence[Expression]) -> dict[str, float]:
    """Accuracy in per cent with exact proposals: one of n objects that look alike is right."""
    views: dict[str, Callable[[Expression, int], bool]] = {
        "everything": lambda s, i: s.things[i] == s.things[0],
        "colours": lambda s, i: s.things[i].colour == s.things[0].colour,
        "shapes": lambda s, i: s.things[i].shape == s.things[0].shape,
        "random": lambda s, i: True,
    }
    return {
        name: 100.0 * sum(1 / sum(alike(s, i) for i in range(len(s.things))) for s in samples) / len(samples)
        for name, alike in views.items()
    }
