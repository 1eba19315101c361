"""What a model can score at most that lacks something: counted from equivalence classes, never written down.

A view is what such a model sees of a sample. Samples that look the same in a view get the same answer, so of each class at
most its most frequent answer is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from data_tools.scenes.meanings import Meaning
from data_tools.scenes.questions import population
from data_tools.scenes.statements import Expression, PairStatement, ScreenStatement


def answer_ceiling(samples: Iterable[tuple[Hashable, Hashable, float]]) -> float:
    """Per cent: of each class of equal views the answer of most weight. `samples` are (view, answer, weight)."""
    weights: dict[Hashable, dict[Hashable, float]] = defaultdict(lambda: defaultdict(float))
    for view, answer, weight in samples:
        weights[view][answer] += weight
    total = sum(weight for answers in weights.values() for weight in answers.values())
    return 100.0 * sum(max(answers.values()) for answers in weights.values()) / total


def retrieval_ceiling(views: Sequence[Hashable]) -> float:
    """Per cent R@1 over a gallery with one right item per query: a class of n items is right once in n."""
    return 100.0 * len(set(views)) / len(views)


def bag(meaning: Meaning) -> Hashable:
    """Colours and shapes without knowing which belongs to which."""
    return tuple(sorted(t.colour for t in meaning.things)), tuple(sorted(t.shape for t in meaning.things))


def axis(meaning: Meaning) -> str:
    """All that the word of a relation says where captions are mirrored half of the time."""
    return "horizontal" if meaning.relation in ("left of", "right of") else "vertical"


RETRIEVAL_VIEWS: dict[str, Callable[[Meaning], Hashable]] = {
    "everything": lambda meaning: meaning,
    "objects, no relation": lambda meaning: meaning.things,
    "relation words, no binding": lambda meaning: (bag(meaning), axis(meaning)),
    "colours and shapes": bag,
    "colours": lambda meaning: tuple(sorted(thing.colour for thing in meaning.things)),
}


def retrieval_ceilings(gallery: Sequence[Meaning]) -> dict[str, float]:
    """R@1 in per cent on a gallery with one picture per meaning."""
    return {name: retrieval_ceiling([view(meaning) for meaning in gallery]) for name, view in RETRIEVAL_VIEWS.items()}


def vqa_ceilings() -> dict[str, float]:
    """Accuracy in per cent over all scenes and questions there are."""
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
    """Accuracy in per cent from exact proposals; a class of n objects that look alike is right once in n."""
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
