"""Writes the annotation files of a folder of scenes. Each function writes one task and returns its test set's ceilings."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.scenes.ceilings import entailment_ceilings, grounding_ceilings, nlvr_ceilings
from data_tools.scenes.folder import SceneFolder
from data_tools.scenes.meanings import HARD, HELD_OUT, Split
from data_tools.scenes.questions import all_answers, ask
from data_tools.scenes.render import draw_corners, draw_scene, draw_screened
from data_tools.scenes.statements import (
    EXPRESSIONS,
    HYPOTHESES,
    LABELS,
    Expression,
    PairStatement,
    ScreenStatement,
    pair_statements,
    screen_statements,
)

HUMANS = 10
"""Annotators per question, as in VQA v2; all agree."""
Ceilings = dict[str, float]


def write_retrieval(folder: SceneFolder, seed: int, side: int, split: Split, counts: Mapping[str, int]) -> Ceilings:
    """Released lists {image, caption, image_id}; `test` is the hard gallery, `unseen` the held-out meanings, `val` new images of
    a part of the hard meanings. karpathy.json holds val and test in Karpathy's format."""
    generator = random.Random(f"retrieval {seed}")
    train = []
    for number in range(counts["retrieval"]):
        meaning = generator.choice(split.train)
        image = folder.image(f"retrieval/train_{number:06d}", draw_scene(meaning, generator, side))
        # Images of one meaning share an id, so they are not negatives of each other's captions.
        image_id = f"m{split.train.index(meaning)}"
        train += [{"image": image, "caption": caption, "image_id": image_id} for caption in meaning.captions()]
    folder.json("retrieval_train.json", train)
    val = generator.sample(HARD, min(len(HARD), counts["evaluation"] // 3))
    karpathy = []
    for name, meanings in (("val", val), ("test", list(HARD[: counts["gallery"]])), ("unseen", list(split.held_out))):
        rows = [
            {
                "image": folder.image(f"retrieval/{name}_{number:06d}", draw_scene(meaning, generator, side)),
                "caption": [meaning.caption(mirrored=number % 2 == 1)],
            }
            for number, meaning in enumerate(meanings)
        ]
        folder.json(f"retrieval_{name}.json", rows)
        if name != "unseen":
            for row in rows:
                sentences = [{"raw": caption} for caption in row["caption"]]
                karpathy.append({"filename": row["image"], "split": name, "sentences": sentences})
    folder.json("karpathy.json", {"dataset": "scenes", "images": karpathy})
    return {}


def write_vqa(folder: SceneFolder, seed: int, side: int, split: Split, counts: Mapping[str, int], noise: float = 0.0) -> Ceilings:
    """Released lists {question_id, question, image, dataset, answer}; official questions and annotations of val and test."""
    generator = random.Random(f"vqa {seed}")
    number = 0
    for name, meanings, count in (
        ("train", split.train, counts["questions"]),
        ("val", split.held_out, counts["evaluation"]),
        ("test", split.held_out, counts["evaluation"]),
    ):
        rows, official, annotations = [], [], []
        for _ in range(count):
            number += 1
            meaning = generator.choice(meanings)
            drawn = draw_scene(meaning, generator, side)
            question = ask(meaning, drawn.sizes, generator)
            image = folder.image(f"{name}2014/COCO_{name}2014_{number:012d}", drawn, "jpg")
            rows.append({"question_id": number, "question": question.text, "image": image, "dataset": "vqa"})
            rows[-1]["answer"] = [_noisy(question.answer, all_answers(), name, noise, generator)] * HUMANS
            official.append({"image_id": number, "question": question.text, "question_id": number})
            answers = [{"answer": question.answer, "answer_id": i + 1} for i in range(HUMANS)]
            annotation = {"question_id": number, "image_id": number, "question_type": question.kind}
            annotations.append(annotation | {"multiple_choice_answer": question.answer, "answers": answers})
        folder.json(f"vqa_{name}.json", rows)
        if name != "train":
            folder.json(f"v2_questions_{name}.json", {"data_subtype": f"{name}2014", "questions": official})
            folder.json(f"v2_annotations_{name}.json", {"data_subtype": f"{name}2014", "annotations": annotations})
    folder.json("answer_list.json", all_answers())
    return {}


def write_nlvr(
    folder: SceneFolder, seed: int, side: int, split: Split, counts: Mapping[str, int], noise: float = 0.0
) -> Ceilings:
    """Released lists {images, sentence, label}, and the official lines of dev; images have names as in NLVR2."""
    generator = random.Random(f"nlvr {seed}")
    test: list[PairStatement] = []
    for name, meanings, count in (
        ("train", split.train, counts["nlvr"]),
        ("dev", split.held_out, counts["evaluation"]),
        ("test", split.held_out, counts["evaluation"]),
    ):
        rows, official = [], []
        for group in range(max(1, count // 2)):
            for pair, statement in enumerate(pair_statements(meanings, generator)):
                base = f"{name}/{name}-{group}-{pair}"
                images = [
                    folder.image(f"{base}-img{position}", draw_scene(scene, generator, side))
                    for position, scene in enumerate(statement.scenes)
                ]
                label = _noisy(str(statement.label), ["True", "False"], name, noise, generator)
                rows.append({"images": images, "sentence": statement.sentence, "label": label})
                official.append({"identifier": f"{name}-{group}-{pair}-0", "sentence": statement.sentence, "label": label})
                if name == "test":
                    test.append(statement)
        folder.json(f"nlvr_{name}.json", rows)
        if name == "dev":
            folder.json_lines("nlvr_official_dev.jsonl", official)
    return nlvr_ceilings(test)


def write_entailment(folder: SceneFolder, seed: int, side: int, counts: Mapping[str, int], noise: float = 0.0) -> Ceilings:
    """Released lists {image, sentence, label}, and the official lines of dev; hypotheses of dev and test are not in training."""
    generator = random.Random(f"entailment {seed}")
    train, held_out = _held_out(HYPOTHESES, generator)
    test: list[ScreenStatement] = []
    number = 0
    for name, hypotheses, count in (
        ("train", train, counts["entailment"]),
        ("dev", held_out, counts["evaluation"]),
        ("test", held_out, counts["evaluation"]),
    ):
        rows, official = [], []
        for _ in range(max(1, count // 3)):
            spot, claimed = generator.choice(hypotheses)
            for statement in screen_statements(spot, claimed, generator):
                number += 1
                drawn = draw_screened(statement.visible, statement.visible_spot, statement.screen_spot, generator, side)
                image = folder.image(f"{number}", drawn, "jpg")
                label = _noisy(statement.label, LABELS, name, noise, generator)
                rows.append({"image": image, "sentence": statement.sentence, "label": label})
                official.append({"Flickr30K_ID": str(number), "sentence2": statement.sentence, "gold_label": statement.label})
                if name == "test":
                    test.append(statement)
        folder.json(f"ve_{name}.json", rows)
        if name == "dev":
            folder.json_lines("snli_ve_dev.jsonl", official)
    return entailment_ceilings(test)


def write_grounding(folder: SceneFolder, seed: int, side: int, counts: Mapping[str, int]) -> Ceilings:
    """Released lists {image, text, ref_id}, COCO's instances, the refs, and exact boxes as a detector's proposals.

    Training expressions name any of the three objects. If they always named the one that shares its shape with one object and
    its colour with the other, as the tests do, the image alone would determine the text.
    """
    generator = random.Random(f"grounding {seed}")
    train, held_out = _held_out(EXPRESSIONS, generator)
    refs, images, boxes, detections = [], [], [], {}
    test: list[Expression] = []
    number = 0
    for name, expressions, count in (
        ("train", train, counts["expressions"]),
        ("val", held_out, counts["evaluation"]),
        ("test", held_out, counts["evaluation"]),
    ):
        rows = []
        for _ in range(count):
            number += 1
            expression = generator.choice(expressions)
            if name == "train":
                expression = expression.about(generator.randrange(len(expression.things)))
            things = list(expression.things)
            drawn = draw_corners(things, generator, side)
            rows.append({"image": folder.image(f"refs/{number:06d}", drawn), "text": expression.text, "ref_id": number})
            if name == "train":
                continue
            part = name if name == "val" else generator.choice(("testA", "testB"))
            refs.append({"ref_id": number, "ann_id": number, "image_id": number, "split": part})
            images.append({"id": number, "width": side, "height": side})
            boxes.append({"id": number, "image_id": number, "bbox": list(drawn.boxes[0])})
            detections[str(number)] = [list(box) for box in generator.sample(drawn.boxes, len(drawn.boxes))]
            if name == "test":
                test.append(expression)
        folder.json(f"refcoco_{name}.json", rows)
    folder.json("refs.json", refs)
    folder.json("instances.json", {"images": images, "annotations": boxes})
    folder.json("dets.json", detections)
    return grounding_ceilings(test)


def _noisy(label: str, labels: Sequence[str], split: str, noise: float, generator: random.Random) -> str:
    """The label, or any of `labels` in a `noise` share of the training samples."""
    return generator.choice(labels) if split == "train" and noise > 0 and generator.random() < noise else label


def _held_out(items: Sequence[Any], generator: random.Random) -> tuple[list[Any], list[Any]]:
    order = generator.sample(list(items), len(items))
    count = round(len(items) * HELD_OUT)
    return order[count:], order[:count]
