"""Result and options of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from albef_ds.common.progress import Progress, silent


@dataclass(frozen=True)
class Scores:
    """One split's metrics by name, and predictions (question id to answer, or a list) if the task gives any."""

    metrics: dict[str, float]
    predictions: Any = None
    protocol: dict[str, Any] = field(default_factory=dict)
    """Settings that change the numbers: k_test, layer, answers."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of all tasks; each task reads its own."""

    momentum: bool = False
    """Score the momentum copy."""
    generate: bool = False
    """Generate VQA answers instead of ranking `data.answer_list`."""
    layer: int | None = None
    """Multimodal layer of Grad-CAM; None: the middle one, as in the paper."""
    k_test: int | None = None
    """Candidates per query that retrieval re-ranks; None: the task's."""
    observe: Callable[[Any, Any], None] | None = None
    """Retrieval calls it on rank 0 with the set and its `RetrievalScores`."""
    progress: Progress = silent
    """Called after every batch."""
