"""What a downstream annotation says, whichever file it came from. Pictures are paths as the file gives them."""

from __future__ import annotations

from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""left, top, width, height in pixels."""


@dataclass(frozen=True)
class CaptionRecord:
    """A picture and its captions: retrieval, and grounding's training."""

    image: str
    captions: tuple[str, ...]
    image_id: str
    """Equal for the same picture."""


@dataclass(frozen=True)
class QuestionRecord:
    """A question about a picture."""

    image: str
    question: str
    question_id: int
    answers: tuple[tuple[str, float], ...]
    """Distinct answers with their training weights; empty where the answers are not public."""
    humans: tuple[str, ...] = ()
    """The annotators' answers as they gave them: what the official accuracy counts."""
    source: str = "vqa"
    """`vqa`, or `vg` (Visual Genome)."""


@dataclass(frozen=True)
class StatementRecord:
    """A statement about one picture (visual entailment) or two (NLVR2)."""

    images: tuple[str, ...]
    sentence: str
    label: int
    group: str = ""
    """Statements of one group must all be right to count as consistent (NLVR2)."""


@dataclass(frozen=True)
class ExpressionRecord:
    """A referring expression with the box it means and a detector's proposals."""

    image: str
    text: str
    ref_id: int
    box: Box
    proposals: tuple[Box, ...]
    width: int
    height: int
    split: str
    """`val`, `testA` or `testB`."""


Record = CaptionRecord | QuestionRecord | StatementRecord | ExpressionRecord
