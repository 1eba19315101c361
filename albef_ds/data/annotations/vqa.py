"""Reads visual question answering: the released JSON lists, and the official questions with their annotations.

The weight of an answer is the share of annotators who gave it; answers from Visual Genome, each by one annotator, have weight 0.5
(released code).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.data.annotations.json_files import entries, field, read_json, texts
from albef_ds.data.annotations.records import QuestionRecord
from albef_ds.data.annotations.vqa_text import kept_answer

VG_WEIGHT = 0.5
_KIND = "a list of {image, question, question_id, answer, dataset}, or the official questions JSON"


def read_vqa(path: Path, annotations: Path | None = None) -> list[QuestionRecord]:
    """Returns the questions of a released file, or of an official one joined with its official `annotations`.

    Released: a list of {question_id, question, image, dataset: vqa | vg, answer: text or list}; test files have no
    `answer`. Official: {questions: [{image_id, question, question_id}], data_subtype}; images are named
    `SUBTYPE/COCO_SUBTYPE_000000000000.jpg`. Without `annotations` (test) there are no answers.

    Raises:
        DataError: the file has another format, or a question no annotation, or an annotation no question.
    """
    raw = read_json(path)
    if isinstance(raw, dict) and "questions" in raw:
        return _official(path, raw, annotations)
    records = []
    for where, entry in entries(path, raw, _KIND):
        source = entry.get("dataset", "vqa")
        if source not in ("vqa", "vg"):
            raise DataError(f"{where}: `dataset` is {source!r}: it must be vqa or vg")
        given = texts(where, entry, "answer") if "answer" in entry else ()
        image, question = field(where, entry, "image", str), field(where, entry, "question", str)
        number = int(field(where, entry, "question_id", (int, str))) if str(entry.get("question_id", "")).isdecimal() else None
        if number is None:
            raise DataError(f"{where}: `question_id` is {entry.get('question_id')!r}: it must be a whole number")
        weights = tuple((answer, VG_WEIGHT) for answer in dict.fromkeys(given)) if source == "vg" else answer_weights(given)
        records.append(QuestionRecord(image, question, number, weights, given, source))
    return _unique(path, records)


def answer_weights(answers: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Returns distinct answers in order of appearance, each with the share of annotators who gave it."""
    counts = Counter(answers)
    return tuple((answer, count / len(answers)) for answer, count in counts.items())


def _official(path: Path, raw: dict[str, Any], annotations: Path | None) -> list[QuestionRecord]:
    subtype = field(str(path), raw, "data_subtype", str)
    folder = "test2015" if subtype == "test-dev2015" else subtype  # test-dev uses images of test
    answers = _official_answers(annotations) if annotations else None
    records = []
    for where, entry in entries(path, raw["questions"], _KIND):
        number = field(where, entry, "question_id", int)
        image_id = field(where, entry, "image_id", int)
        given: tuple[str, ...] = ()
        if answers is not None:
            if number not in answers:
                raise DataError(f"{where}: question {number} has no entry in {annotations}: give the annotations of this file")
            given = answers.pop(number)
        image = f"{folder}/COCO_{folder}_{image_id:012d}.jpg"
        normal = answer_weights([kept_answer(answer) for answer in given])
        records.append(QuestionRecord(image, field(where, entry, "question", str), number, normal, given))
    if answers:
        raise DataError(f"{len(answers)} annotations of {annotations} have no question in {path}: give files of one split")
    return _unique(path, records)


def _official_answers(path: Path) -> dict[int, tuple[str, ...]]:
    raw = read_json(path)
    if not isinstance(raw, dict) or "annotations" not in raw:
        raise DataError(f"{path} holds no `annotations`: give the official annotations JSON")
    return {
        field(where, entry, "question_id", int): tuple(
            field(f"{where} answer {number}", answer, "answer", str)
            for number, answer in enumerate(field(where, entry, "answers", list))
        )
        for where, entry in entries(path, raw["annotations"], "the official annotations JSON")
    }


def _unique(path: Path, records: list[QuestionRecord]) -> list[QuestionRecord]:
    counts = Counter((record.source, record.question_id) for record in records)
    (_, number), most = counts.most_common(1)[0]
    if most > 1:
        raise DataError(f"{path} has question {number} {most} times: keep one")
    return records


def read_answer_list(path: Path) -> list[str]:
    """Returns the candidate answers. Raises `DataError` unless the file is a JSON list of distinct texts."""
    raw = read_json(path)
    if not isinstance(raw, list) or not raw or not all(isinstance(answer, str) for answer in raw):
        raise DataError(f"answer list {path} is not a list of texts: make one with `albef-ds answers`")
    if len(set(raw)) != len(raw):
        raise DataError(f"answer list {path} repeats {Counter(raw).most_common(1)[0][0]!r}: keep one")
    return raw


def build_answer_list(records: Iterable[QuestionRecord], min_count: int = 9) -> list[str]:
    """Returns the normalised answers that are the most frequent answer to at least `min_count` questions, most frequent first.

    With 9, VQA v2 gives about three thousand answers, the usual candidate list.

    Raises:
        ConfigError: no answer is that frequent.
    """
    counts: Counter[str] = Counter()
    for record in records:
        votes: dict[str, float] = defaultdict(float)
        for answer, weight in record.answers:
            votes[kept_answer(answer)] += weight
        if votes:
            counts[min(votes, key=lambda answer: (-votes[answer], answer))] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [answer for answer, count in ordered if count >= min_count and answer]
    if not kept:
        raise ConfigError(f"no answer is given to {min_count} questions: lower that number")
    return kept
