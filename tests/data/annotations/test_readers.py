"""Released and official annotation files give the same records; errors are one line and name the problem."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.schema import ClassificationConfig, RunConfig
from albef_ds.data.annotations.grounding import read_expressions, read_grounding_train
from albef_ds.data.annotations.json_files import require_images
from albef_ds.data.annotations.read import read_statements
from albef_ds.data.annotations.retrieval import read_retrieval
from albef_ds.data.annotations.statements import read_entailment, read_nlvr
from albef_ds.data.annotations.vqa import build_answer_list, read_answer_list, read_vqa


def saved(folder: Path, content: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_retrieval_lists_and_karpathys_file_give_the_same_images(scenes: Path) -> None:
    released = read_retrieval(scenes / "retrieval_val.json", "val")
    official = read_retrieval(scenes / "karpathy.json", "val")
    assert [(r.image, r.captions) for r in released] == [(r.image, r.captions) for r in official]
    assert len(read_retrieval(scenes / "karpathy.json", "test")) == 12


def test_karpathys_restval_is_trained_on_and_a_split_that_is_absent_is_named(tmp_path: Path) -> None:
    images = [
        {"filename": f"{split}.jpg", "filepath": "val2014", "split": split, "cocoid": number, "sentences": [{"raw": "a"}]}
        for number, split in enumerate(("train", "restval", "val"))
    ]
    path = saved(tmp_path, {"images": images})
    assert [record.image for record in read_retrieval(path, "train")] == ["val2014/train.jpg", "val2014/restval.jpg"]
    with pytest.raises(DataError, match="no image of the split test"):
        read_retrieval(path, "test")


def test_vqa_lists_and_the_official_pair_give_the_same_questions_and_weights(scenes: Path) -> None:
    released = read_vqa(scenes / "vqa_val.json")
    official = read_vqa(scenes / "v2_questions_val.json", scenes / "v2_annotations_val.json")
    assert released == official  # the names of the images follow from the subtype and the ids


def test_an_answers_weight_is_the_share_of_annotators_and_visual_genomes_is_a_half(tmp_path: Path) -> None:
    rows = [
        {"image": "a.jpg", "question": "q", "question_id": 1, "dataset": "vqa", "answer": ["red"] * 7 + ["blue"] * 3},
        {"image": "b.jpg", "question": "q", "question_id": "1", "dataset": "vg", "answer": "dark red"},
        {"image": "c.jpg", "question": "q", "question_id": 3, "dataset": "vqa"},
    ]
    first, second, third = read_vqa(saved(tmp_path, rows))
    assert first.answers == (("red", 0.7), ("blue", 0.3))
    assert second.answers == (("dark red", 0.5),)
    assert third.answers == ()


def test_test_dev_questions_use_the_images_of_test2015(tmp_path: Path) -> None:
    raw = {"data_subtype": "test-dev2015", "questions": [{"image_id": 7, "question": "q", "question_id": 70}]}
    assert read_vqa(saved(tmp_path, raw))[0].image == "test2015/COCO_test2015_000000000007.jpg"


def test_questions_and_annotations_of_different_splits_are_refused(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(DataError, match="has no entry in"):
        read_vqa(scenes / "v2_questions_val.json", scenes / "v2_annotations_test.json")
    raw = json.loads((scenes / "v2_questions_val.json").read_text())
    raw["questions"] = raw["questions"][:3]
    with pytest.raises(DataError, match=r"12 annotations of .* have no question"):
        read_vqa(saved(tmp_path, raw), scenes / "v2_annotations_val.json")


def test_an_article_alone_is_an_answer(tmp_path: Path) -> None:
    given = [["a"] * 10, ["A"] * 6 + ["b"] * 4, ["..."] * 10]
    rows = [{"image": "a", "question": "which letter", "question_id": n, "answer": answers} for n, answers in enumerate(given)]
    assert build_answer_list(read_vqa(saved(tmp_path, rows)), min_count=2) == ["a"]
    (tmp_path / "official").mkdir()
    questions = {"data_subtype": "val2014", "questions": [{"image_id": 1, "question": "which letter", "question_id": 1}]}
    answers = {"annotations": [{"question_id": 1, "answers": [{"answer": text} for text in given[1]]}]}
    [record] = read_vqa(saved(tmp_path, questions), saved(tmp_path / "official", answers))
    assert dict(record.answers) == {"a": 0.6, "b": 0.4}


def test_the_answer_list_counts_questions_by_their_most_given_answer(tmp_path: Path) -> None:
    given = [["Red"] * 6 + ["blue"] * 4, ["red."] * 10, ["blue"] * 10, ["the cat"] * 10]
    rows = [{"image": "a", "question": "q", "question_id": n, "answer": answers} for n, answers in enumerate(given)]
    records = read_vqa(saved(tmp_path, rows))
    assert build_answer_list(records, min_count=1) == ["red", "blue", "cat"]
    assert build_answer_list(records, min_count=2) == ["red"]
    with pytest.raises(ConfigError, match="lower that number"):
        build_answer_list(records, min_count=3)
    with pytest.raises(DataError, match="repeats 'a'"):
        read_answer_list(saved(tmp_path, ["a", "b", "a"]))


def test_nlvr_lists_and_official_lines_give_the_same_statements(scenes: Path) -> None:
    released, official = read_nlvr(scenes / "nlvr_dev.json"), read_nlvr(scenes / "nlvr_official_dev.jsonl")
    assert [(r.images, r.sentence, r.label) for r in released] == [(r.images, r.sentence, r.label) for r in official]
    assert official[0].group == "dev-0-0" and official[0].images[0] == "dev/dev-0-0-img0.png"


def test_entailment_lists_and_official_lines_give_the_same_statements(tmp_path: Path, scenes: Path) -> None:
    released, official = read_entailment(scenes / "ve_dev.json"), read_entailment(scenes / "snli_ve_dev.jsonl")
    assert released == official
    undecided = {"Flickr30K_ID": "1", "sentence2": "s", "gold_label": "-"}
    decided = {"Flickr30K_ID": "1", "sentence2": "s", "gold_label": "neutral"}
    lines = saved(tmp_path, f"{json.dumps(undecided)}\n{json.dumps(decided)}\n", "a.jsonl")
    assert [record.label for record in read_entailment(lines)] == [1]


def test_expressions_find_their_boxes_and_proposals(scenes: Path) -> None:
    files = [scenes / name for name in ("refs.json", "instances.json", "dets.json")]
    records = read_expressions(scenes / "refcoco_test.json", *files)
    assert {record.split for record in records} <= {"testA", "testB"}
    assert all(record.box in record.proposals and len(record.proposals) == 3 for record in records)
    without = read_expressions(scenes / "refcoco_test.json", files[0], files[1], None)
    assert {record.proposals for record in without} == {()}
    assert read_grounding_train(scenes / "refcoco_train.json")[0].captions[0].startswith("the ")


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_retrieval, {"a": 1}, "holds no list"),
        (read_retrieval, [], "empty list"),
        (read_retrieval, [{"image": "a"}], "entry 0: `caption` is missing"),
        (read_retrieval, [{"image": "a", "caption": []}], "entry 0: `caption` must be a text or a list of at least one"),
        (read_vqa, [{"image": "a", "question": "q", "question_id": "x"}], "`question_id` is 'x'"),
        (read_vqa, [{"image": "a", "question": "q", "question_id": 1, "dataset": "coco"}], "must be vqa or vg"),
        (read_vqa, [{"image": "a", "question": "q", "question_id": 1}] * 2, "has question 1 2 times"),
        (read_nlvr, [{"images": ["a"], "sentence": "s", "label": "True"}], "must be two paths"),
        (read_nlvr, [{"images": ["a", "b"], "sentence": "s", "label": "maybe"}], "must be one of False, True"),
        (read_nlvr, [{"identifier": "dev-1", "sentence": "s", "label": "True"}], "must be SPLIT-SET-PAIR-SENTENCE"),
        (read_entailment, [{"image": "a", "sentence": "s", "label": "yes"}], "must be one of contradiction"),
        (read_grounding_train, [{"image": "a"}], "`text` is missing"),
        (read_retrieval, "{not json", "is not JSON"),
    ],
)
def test_a_faulty_file_is_named_with_its_entry(tmp_path: Path, read: Any, content: Any, message: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(DataError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_missing_images_are_counted_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    require_images(tmp_path, ["a/1.jpg"])
    with pytest.raises(DataError, match=r"4 of 5 images are missing under data.image_root .*: a/2.jpg, a/3.jpg, a/4.jpg, \.\.\."):
        require_images(tmp_path, ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "b/1.jpg", "a/2.jpg"])


def test_a_ref_that_leads_nowhere_is_named(tmp_path: Path, scenes: Path) -> None:
    rows = saved(tmp_path, [{"image": "a.png", "text": "the cat", "ref_id": 999_999}])
    with pytest.raises(DataError, match="`ref_id` 999999 is not in"):
        read_expressions(rows, scenes / "refs.json", scenes / "instances.json", None)


def test_the_answers_command_writes_a_list_that_the_reader_takes(tmp_path: Path, scenes: Path) -> None:
    from albef_ds.cli.main import main

    pair = f"{scenes}/v2_questions_val.json+{scenes}/v2_annotations_val.json"
    assert main(["answers", str(tmp_path / "answers.json"), str(scenes / "vqa_train.json"), pair, "--min-count", "1"]) == 0
    found = read_answer_list(tmp_path / "answers.json")
    assert set(found) <= set(read_answer_list(scenes / "answer_list.json")) and len(found) > 3


def test_own_labels_of_statements_are_classes(tmp_path: Path) -> None:
    task = ClassificationConfig(num_classes=4, class_names="none,some,many,3")
    config = replace(RunConfig(), task=task)
    rows = [{"image": "a.jpg", "sentence": "s", "label": label} for label in ("many", "none", 3)]
    assert [record.label for record in read_statements(config, saved(tmp_path, rows), "train")] == [2, 0, 3]
    pairs = [{"images": ["a.jpg", "b.jpg"], "sentence": "s", "label": "some"}]
    two = replace(config, task=replace(task, num_images=2))
    assert [record.label for record in read_statements(two, saved(tmp_path, pairs), "train")] == [1]
    with pytest.raises(DataError, match=r"`label` is .few.: it must be one of none, some, many, 3, or set task\.class_names"):
        read_statements(config, saved(tmp_path, [{**rows[0], "label": "few"}]), "train")
