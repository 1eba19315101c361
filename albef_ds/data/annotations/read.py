"""Reads the annotation files of a setting, in the format of one kind of sample, and checks that they fit the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.schema import ClassificationConfig, RunConfig
from albef_ds.data.annotations.grounding import read_expressions, read_grounding_train
from albef_ds.data.annotations.json_files import split_paths
from albef_ds.data.annotations.records import QuestionRecord, Record, StatementRecord
from albef_ds.data.annotations.retrieval import Split, read_retrieval
from albef_ds.data.annotations.statements import read_entailment, read_nlvr
from albef_ds.data.annotations.vqa import read_vqa

Reader = Callable[[RunConfig, Path, Split], Sequence[Record]]
"""Reads one file; the split matters if a file holds several. Raises `UserError` for a file of another format."""


def read_records(read: Reader, config: RunConfig, setting: str, split: Split = "train") -> list[Record]:
    """Returns the records in the comma-separated files of `setting`. Raises `UserError` for a missing file and as `read`."""
    return [record for path in split_paths(setting) for record in read(config, path, split)]


def read_pairs(config: RunConfig, path: Path, split: Split) -> Sequence[Record]:
    """Returns images with captions: of retrieval, or of grounding's training if `data.refs` is set."""
    return read_grounding_train(path) if config.data.refs else read_retrieval(path, split)


def read_statements(config: RunConfig, path: Path, split: Split) -> Sequence[Record]:
    """Returns statements about one image (visual entailment) or two (NLVR2)."""
    task = _classes(config)
    return read_nlvr(path, task.labels) if task.num_images == 2 else read_entailment(path, task.labels)


def read_questions(config: RunConfig, path: Path, split: Split) -> Sequence[Record]:
    """Returns questions of VQA; a path `QUESTIONS+ANNOTATIONS` names the two official files."""
    questions, _, answers = str(path).partition("+")
    return read_vqa(Path(questions), Path(answers) if answers else None)


def read_boxed_expressions(config: RunConfig, path: Path, split: Split) -> Sequence[Record]:
    """Returns referring expressions with the boxes of `data.instances` and the proposals of `data.detections`."""
    data = config.data
    if not data.instances:
        raise ConfigError("data.instances is empty: give COCO's instances JSON with the boxes of the expressions in data.refs")
    return read_expressions(path, Path(data.refs), Path(data.instances), Path(data.detections) if data.detections else None)


def check_labels(records: Sequence[Record], config: RunConfig) -> None:
    """Raises `ConfigError` for a label that is no class of the task."""
    classes = _classes(config).num_classes
    highest = max(record.label for record in records if isinstance(record, StatementRecord))
    if highest >= classes:
        raise ConfigError(f"task.num_classes is {classes}, the annotations have class {highest}: set {highest + 1}")


def check_answered(records: Sequence[Record], config: RunConfig) -> None:
    """Raises `DataError` for questions of `data.annotations` that have no answer."""
    unanswered = sum(isinstance(record, QuestionRecord) and not record.answers for record in records)
    if unanswered:
        raise DataError(
            f"{unanswered} of {len(records)} questions in {config.data.annotations} have no answer: they cannot be trained on"
        )


def _classes(config: RunConfig) -> ClassificationConfig:
    return cast(ClassificationConfig, config.task)  # every task that trains on statements has these settings
