"""The submission file of the VQA challenge server (EvalAI): a JSON list of {question_id, answer}, every question once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albef_ds.common.atomic_files import write_output
from albef_ds.common.errors import DataError
from albef_ds.data.annotations.json_files import read_json


def write_submission(path: Path, answers: Mapping[int, str]) -> None:
    """Writes `answers` (question id to answer), sorted by id. Raises `MachineError` if `path` cannot be written."""
    rows = [{"question_id": number, "answer": answers[number]} for number in sorted(answers)]
    write_output(path, json.dumps(rows) + "\n")


def validate_submission(path: Path, questions: Path) -> int:
    """Checks that a file answers every official question once; returns the number of answers.

    Raises:
        DataError: not a list of {question_id: int, answer: text}, or a question is missing, unknown or answered twice.
    """
    rows: Any = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list: write one {{question_id, answer}} per question")
    for number, row in enumerate(rows):
        good = isinstance(row, dict) and row.keys() == {"question_id", "answer"}
        if not (good and type(row["question_id"]) is int and isinstance(row["answer"], str)):
            raise DataError(f"{path} entry {number} is {row!r}: it must be {{question_id: whole number, answer: text}}")
    raw = read_json(questions)
    entries = raw["questions"] if isinstance(raw, dict) and "questions" in raw else raw
    try:
        wanted = {entry["question_id"] for entry in entries}
    except (TypeError, KeyError):
        raise DataError(f"{questions} is not a list of questions: give the official questions file") from None
    given = Counter(row["question_id"] for row in rows)
    for problem, found in (
        ("questions are missing", wanted - given.keys()),
        ("answers have an unknown question", given.keys() - wanted),
        ("questions are answered twice", {number for number, count in given.items() if count > 1}),
    ):
        if found:
            raise DataError(f"{path}: {len(found)} {problem}, such as {min(found)}: answer every question of {questions} once")
    return len(rows)
