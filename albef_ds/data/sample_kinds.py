"""The kinds of training samples. A task's record (`tasks/registry.py`) names one of them, or its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from albef_ds.config.schema import DataConfig, RunConfig
from albef_ds.data import mock
from albef_ds.data.annotations.read import Reader, check_answered, check_labels, read_pairs, read_questions, read_statements
from albef_ds.data.annotations.records import Record
from albef_ds.data.batch import Batch
from albef_ds.data.stream.builders import Builder, PairBuilder, QuestionBuilder, StatementBuilder


def _accept(records: Sequence[Record], config: RunConfig) -> None:
    """Accepts every record."""


@dataclass(frozen=True, kw_only=True)
class SampleKind:
    """The functions that read samples of one kind from annotation files and make batches of them."""

    read: Reader
    builder: Callable[[DataConfig, int, int], Builder]
    """Takes the data section, the side of the images in pixels and the seed. Picklable: loader processes get a copy."""
    mock: Callable[[RunConfig], Batch]
    """Returns a full-size batch without data, see `data/mock.py`."""
    check: Callable[[Sequence[Record], RunConfig], None] = _accept
    """Raises `UserError` for records that the task cannot be trained on."""
    in_corpora: bool = False
    """True if a corpus of captions (`data.shards`) holds such samples; otherwise annotation files are needed."""


PAIRS = SampleKind(read=read_pairs, builder=PairBuilder, mock=mock.pairs, in_corpora=True)
"""An image and one of its captions: `ImageTextBatch`."""
STATEMENTS = SampleKind(read=read_statements, builder=StatementBuilder, mock=mock.statements, check=check_labels)
"""A statement about one or two images, and its class: `ClassificationBatch`."""
QUESTIONS = SampleKind(read=read_questions, builder=QuestionBuilder, mock=mock.questions, check=check_answered)
"""A question about an image, and its answers: `VqaBatch`."""
