"""Records of downstream annotations, independent of the file format. Images are paths as in the file."""

from __future__ import annotations

from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""left, top, width, height in pixels."""


@dataclass(frozen=True)
class CaptionRecord:
    """An image and its captions: retrieval, and grounding's training."""

    image: str
    captions: tuple[str, ...]
    image_id: str
    """Equal for the same image."""


@dataclass(frozen=True)
class QuestionRecord:
    """A question about an image."""

    image: str
    question: str
    question_id: int
    answers: tuple[tuple[str, float], ...]
    """Distinct answers with their training weights; empty if the answers are not public."""
    humans: tuple[str, ...] = ()
    """The annotators' original answers, for the official accuracy."""
    source: str = "vqa"
    """`vqa`, or `vg` (Visual Genome)."""


@dataclass(frozen=True)
class StatementRecord:
    """A statement about one image (visual entailment) or two (NLVR2)."""

    images: tuple[str, ...]
    sentence: str
    label: int
    group: str = ""
    """A group is consistent if the predictions for all its statements are correct (NLVR2)."""


@dataclass(frozen=True)
class ExpressionRecord:
    """A referring expression with its box and a detector's proposals."""

    image: str
    text: str
    ref_id: int
    box: Box
    proposals: tuple[Box, ...]
    width: int
    height: int
    split: str
    """`val`, `testA`, `testB` or `test`."""


Record = CaptionRecord | QuestionRecord | StatementRecord | ExpressionRecord
