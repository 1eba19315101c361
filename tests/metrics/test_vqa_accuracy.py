"""The official VQA accuracy and the file for the challenge server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.common.errors import DataError
from albef_ds.metrics.vqa import official_accuracy
from albef_ds.metrics.vqa_submission import validate_submission, write_submission


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_is_the_mean_over_all_choices_of_nine_annotators(matches: int, expected: float) -> None:
    # With m of 10 annotators agreeing, leaving one of them out costs a third of a point m times.
    humans = ["red"] * matches + [f"other {number}" for number in range(10 - matches)]
    assert official_accuracy("red", humans) == pytest.approx(expected)


def test_texts_are_normalised_only_where_annotators_differ() -> None:
    assert official_accuracy("The dog.", ["dog"] * 9 + ["cat"]) == 1.0
    assert official_accuracy("The dog.", ["dog"] * 10) == 0.0
    assert official_accuracy("dog\n", ["dog"] * 10) == 1.0


def test_a_submission_that_covers_every_question_once_passes(tmp_path: Path) -> None:
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps({"questions": [{"question_id": number} for number in (3, 1, 2)]}))
    write_submission(tmp_path / "out" / "answers.json", {2: "b", 1: "a", 3: "c"})
    assert json.loads((tmp_path / "out" / "answers.json").read_text())[0] == {"question_id": 1, "answer": "a"}
    assert validate_submission(tmp_path / "out" / "answers.json", questions) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": 1, "answer": "a"}], "1 questions are missing, such as 2"),
        ([{"question_id": n, "answer": "a"} for n in (1, 2, 9)], "1 answers have an unknown question, such as 9"),
        ([{"question_id": n, "answer": "a"} for n in (1, 2, 2)], "1 questions are answered twice, such as 2"),
        ([{"question_id": "1", "answer": "a"}], "entry 0"),
        ([{"question_id": 1, "answer": 5}], "entry 0"),
        ([{"question_id": 1, "answer": "a", "score": 1}], "entry 0"),
        ({"1": "a"}, "is not a list"),
    ],
)
def test_a_faulty_submission_is_refused(tmp_path: Path, rows: object, message: str) -> None:
    questions, answers = tmp_path / "questions.json", tmp_path / "answers.json"
    questions.write_text(json.dumps([{"question_id": 1}, {"question_id": 2}]))
    answers.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        validate_submission(answers, questions)
