"""Reads annotation files in the format that a task takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ClassificationConfig, RunConfig, VqaConfig
from albef_ds.data.annotations.grounding import read_grounding_train
from albef_ds.data.annotations.json_files import split_paths
from albef_ds.data.annotations.records import Record, StatementRecord
from albef_ds.data.annotations.retrieval import Split, read_retrieval
from albef_ds.data.annotations.statements import read_entailment, read_nlvr
from albef_ds.data.annotations.vqa import read_vqa


def read_records(config: RunConfig, setting: str, split: Split = "train") -> list[Record]:
    """The records in the comma-separated files of `setting`, in the format that the task takes.

    Raises:
        DataError: a file that is missing or of another form.
    """
    records: list[Record] = []
    for path in split_paths(setting):
        records += _read(config, path, split)
    return records


def _read(config: RunConfig, path: Path, split: Split) -> Sequence[Record]:
    task = config.task
    if isinstance(task, VqaConfig):
        questions, _, answers = str(path).partition("+")
        return read_vqa(Path(questions), Path(answers) if answers else None)
    if isinstance(task, ClassificationConfig):
        return read_nlvr(path) if task.num_images == 2 else read_entailment(path)
    if config.data.refs:
        return read_grounding_train(path)
    return read_retrieval(path, split)


def check_labels(records: Sequence[Record], task: ClassificationConfig) -> None:
    """Raise `ConfigError` for a label that the task has no class for."""
    highest = max(record.label for record in records if isinstance(record, StatementRecord))
    if highest >= task.num_classes:
        raise ConfigError(f"task.num_classes is {task.num_classes}, the annotations have class {highest}: set {highest + 1}")
