"""What an evaluation gives, and what its caller may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from albef_ds.common.progress import Progress, silent


@dataclass(frozen=True)
class Scores:
    """One split's metrics by name, and predictions where a server or a reader wants them (question id to answer, or a list)."""

    metrics: dict[str, float]
    predictions: Any = None
    protocol: dict[str, Any] = field(default_factory=dict)
    """What decides the numbers besides the weights: k_test, layer, answers."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Each task looks at those that concern it."""

    momentum: bool = False
    """Score the momentum copy."""
    generate: bool = False
    """VQA writes answers freely instead of ranking `data.answer_list`."""
    layer: int | None = None
    """Multimodal layer of Grad-CAM; None: the middle one, as in the paper."""
    k_test: int | None = None
    """Candidates per query that retrieval re-ranks; None: the task's."""
    progress: Progress = silent
    """Told about every batch."""
