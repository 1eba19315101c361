"""Scenes: counts, splits, boxes, ceilings, and files that say the same every time."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef_ds.common.errors import MachineError
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.text.tokenizer import CaptionTokenizer
from data_tools.scenes import annotations
from data_tools.scenes.ceilings import answer_ceiling, retrieval_ceilings, vqa_ceilings
from data_tools.scenes.corpus import GROUP, SceneSettings, grouped_order, vocabulary, write_scenes
from data_tools.scenes.folder import SceneFolder
from data_tools.scenes.meanings import HARD, MEANINGS, MIRROR, THINGS, Meaning, Thing, split_meanings
from data_tools.scenes.questions import questions
from data_tools.scenes.render import PIXELS, draw_scene
from data_tools.scenes.statements import EXPRESSIONS, HYPOTHESES, pair_statements, screen_statements
from tests.data_tools.scenes.tiny import SETTINGS


def test_there_are_1104_meanings_of_which_720_are_hard() -> None:
    assert (len(set(MEANINGS)), len(set(HARD)), len(EXPRESSIONS), len(HYPOTHESES)) == (1104, 720, 360, 96)


def test_a_mirrored_statement_is_the_same_meaning() -> None:
    first, second = THINGS[0], THINGS[5]
    assert Meaning.of(first, second, "left of") == Meaning.of(second, first, "right of")
    assert Meaning.of(first, second, "left of") != Meaning.of(second, first, "left of")


def test_splits_are_by_meaning_and_keep_every_pair_in_training() -> None:
    split = split_meanings(seed=3)
    assert not set(split.train) & set(split.held_out)
    assert sorted(map(str, (*split.train, *split.held_out))) == sorted(map(str, MEANINGS))
    assert {meaning.things for meaning in split.train} == {meaning.things for meaning in MEANINGS}
    assert len(split.held_out) == 221
    assert split_meanings(seed=3) == split != split_meanings(seed=4)


def test_ceilings_of_the_hard_gallery_are_counted() -> None:
    assert retrieval_ceilings(HARD) == pytest.approx(
        {
            "everything": 100.0,
            "objects and axis, no side": 50.0,
            "objects, no relation": 25.0,
            "relation words, no binding": 25.0,
            "colours and shapes": 12.5,
            "colours": 100 * 15 / 720,
        }
    )


def test_a_ceiling_is_the_most_frequent_answer_of_each_class() -> None:
    assert answer_ceiling([("a", 1, 3.0), ("a", 0, 1.0), ("b", 0, 4.0)]) == pytest.approx(87.5)


def test_questions_alone_say_little() -> None:
    ceilings = vqa_ceilings()
    assert ceilings["question alone"] < 40 < ceilings["colours and shapes"] < ceilings["objects, no relation, no size"] < 70
    assert ceilings["everything"] == pytest.approx(100.0)


def test_a_question_has_one_answer() -> None:
    for meaning in random.Random(0).sample(MEANINGS, 100):
        answers = defaultdict(set)
        for asked in questions(meaning, (0, 1)).values():
            for question in asked:
                answers[question.text].add(question.answer)
        assert all(len(given) == 1 for given in answers.values())


def test_statements_come_with_every_label_so_the_text_says_nothing() -> None:
    generator = random.Random(0)
    for _ in range(50):
        true, false = pair_statements(MEANINGS, generator)
        assert (true.sentence, true.label, false.label) == (false.sentence, True, False)
        labels = Counter(s.label for s in screen_statements(*generator.choice(HYPOTHESES), generator))
        assert set(labels.values()) == {1} and len(labels) == 3


@pytest.mark.parametrize("relation", sorted(MIRROR))
def test_the_picture_shows_the_relation_and_the_box_its_object(relation: str) -> None:
    meaning = next(m for m in HARD if m.relation == relation)
    picture = draw_scene(meaning, random.Random(1), side=96)
    (left, top, width, height), (other_left, other_top, other_width, other_height) = picture.boxes
    gap = {
        "left of": other_left - left - width,
        "right of": left - other_left - other_width,
        "above": other_top - top - height,
        "below": top - other_top - other_height,
    }[relation]
    assert gap >= -1
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)))
    matches = (np.abs(pixels.astype(int) - PIXELS[meaning.first.colour]).sum(axis=2) < 12).nonzero()
    assert top <= matches[0].min() and matches[0].max() < top + height
    assert left <= matches[1].min() and matches[1].max() < left + width


def test_grouped_samples_are_relations_of_one_pair() -> None:
    order = grouped_order(MEANINGS, 40, 1.0, random.Random(0))
    for start in range(0, 40, GROUP):
        group = order[start : start + GROUP]
        assert len({meaning.things for meaning in group}) == 1 and len(set(group)) == GROUP


def test_every_word_of_every_file_is_in_the_vocabulary(scenes: Path) -> None:
    tokenizer = CaptionTokenizer(str(scenes / "vocab.txt"), max_tokens=32)
    assert tokenizer.vocab_size == len(vocabulary()) == 45
    texts = []
    for name in ("retrieval_test", "vqa_train", "nlvr_train", "ve_train", "refcoco_train"):
        for row in json.loads((scenes / f"{name}.json").read_text()):
            captions = row.get("caption", [])
            texts += captions if isinstance(captions, list) else [captions]
            texts += [row[key] for key in ("question", "sentence", "text") if key in row]
    texts += json.loads((scenes / "answer_list.json").read_text())
    assert not [text for text in texts if tokenizer.unk_id in tokenizer.encode(text)]


def test_the_same_settings_give_the_same_bytes_and_others_are_refused(scenes: Path, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    first = write_scenes(tmp_path / "again", SETTINGS)
    assert digests(tmp_path / "again") == digests(scenes)
    assert write_scenes(tmp_path / "again", SETTINGS) == first  # found, not written anew
    with pytest.raises(MachineError, match="other settings"):
        write_scenes(tmp_path / "again", SceneSettings(seed=1))


def test_noisy_captions_tell_another_scene_and_are_no_known_positives(tmp_path: Path) -> None:
    from dataclasses import replace

    from data_tools.scenes.corpus import SceneCounts

    counts = SceneCounts(pretrain=100, retrieval=1, questions=1, nlvr=2, entailment=3, expressions=1, evaluation=3, gallery=4)
    write_scenes(tmp_path, replace(SETTINGS, caption_noise=0.5, counts=counts))
    reader = ShardReader(tmp_path / "pretrain" / "train")
    ids = [json.loads(reader.read_meta(0, row))["image_id"] for row in range(100)]
    assert 30 < sum("-told-" in image_id for image_id in ids) < 70


def test_noisy_labels_are_in_training_alone(tmp_path: Path) -> None:
    from dataclasses import replace

    from data_tools.scenes.corpus import SceneCounts

    counts = SceneCounts(pretrain=8, retrieval=1, questions=60, nlvr=2, entailment=60, expressions=1, evaluation=60, gallery=4)
    for noise, folder in ((0.0, tmp_path / "clean"), (1.0, tmp_path / "noisy")):
        write_scenes(folder, replace(SETTINGS, label_noise=noise, counts=counts))

    def shares(name: str) -> set[float]:
        rows = json.loads((tmp_path / "noisy" / name).read_text())
        return {count / len(rows) for count in Counter(row["label"] for row in rows).values()}

    assert shares("ve_train.json") != {1 / 3} and shares("ve_test.json") == {1 / 3}


def test_emoji_serve_as_nouns(tmp_path: Path) -> None:
    from albef_ds.cli.demo.corpus import emoji_corpus
    from data_tools.scenes.emoji import emoji_nouns, write_emoji_scenes

    nouns = emoji_nouns(emoji_corpus(tmp_path / "cache"), seed=0)
    assert len(set(nouns.names.values())) == len(THINGS) == 24
    ceilings = write_emoji_scenes(tmp_path / "scenes", nouns, seed=0, num_images=10, side=32)
    assert ceilings == pytest.approx({"everything": 100.0, "objects, no relation": 25.0})
    rows = json.loads((tmp_path / "scenes" / "retrieval_test.json").read_text())
    assert len({row["caption"][0] for row in rows}) == len(MEANINGS)
    tokenizer = CaptionTokenizer(str(tmp_path / "scenes" / "vocab.txt"), max_tokens=16)
    assert not [row for row in rows[:50] if tokenizer.unk_id in tokenizer.encode(row["caption"][0])]
    assert ShardReader(tmp_path / "scenes" / "pretrain" / "train").counts == [10]


def test_training_expressions_name_any_object_and_tests_the_one_that_shares_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[Thing]] = []
    real = annotations.draw_corners

    def draw(things: list[Thing], *rest: Any) -> Any:
        drawn.append(things)
        return real(things, *rest)

    monkeypatch.setattr(annotations, "draw_corners", draw)
    annotations.write_grounding(SceneFolder(tmp_path), 0, 32, {"expressions": 90, "evaluation": 20})
    shared = [any(o.shape == t.shape for o in rest) and any(o.colour == t.colour for o in rest) for t, *rest in drawn]
    assert 15 <= sum(shared[:90]) <= 45 and all(shared[90:])
    texts = [row["text"] for row in json.loads((tmp_path / "refcoco_train.json").read_text())]
    assert texts == [f"the {things[0]}" for things in drawn[:90]]
