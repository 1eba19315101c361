"""Tests of `albef_ds.load` and of the methods of its models."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import albef_ds
from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.checkpoint.initial.between_tasks import POSITION_EMBEDDING, resize_position_embedding
from albef_ds.common.errors import ConfigError, DataError, UserError, WeightsError
from albef_ds.common.notices import Notice
from albef_ds.inference import model as interface
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.tasks.contrastive import ContrastiveTask
from tests.inference.tiny_models import model_folder, picture, tiny_config, tiny_task, vocabulary

TEXTS = ["a red cup", "the blue ball is left of the dog", "two cats"]

Load = Callable[[str], interface.AlbefModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tmp_path_factory.mktemp("models")
    loaded: dict[str, interface.AlbefModel] = {}

    def model(kind: str) -> interface.AlbefModel:
        if kind not in loaded:
            loaded[kind] = interface.load(model_folder(folder, kind), device="cpu")
        return loaded[kind]

    return model


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, albef_ds; assert not {'torch', 'deepspeed', 'numpy', 'PIL'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert albef_ds.load is interface.load  # type: ignore[attr-defined]


def test_features_are_those_of_the_task_itself(load: Load, tmp_path: Path) -> None:
    model = load("pretrain")
    config = tiny_config("pretrain", vocabulary(tmp_path))
    task = tiny_task(config)
    assert isinstance(task, ContrastiveTask)
    images, (ids, mask) = model.prepare_images([picture(1), picture(2)]), model.prepare_texts(TEXTS)
    with torch.no_grad():
        expected = task.model.project_image(task.model.encode_image(images))
        words = task.model.encode_text(ids, mask)
        expected_text = task.model.project_text(words, mask)
        cls = torch.zeros(2, 1, dtype=torch.int64)
        [hidden] = task.model.fuse(task.model.encode_image(images), [FusionPass(words[:2], mask[:2], positions=cls)])
        expected_match = task.itm_head(hidden[:, 0]).softmax(dim=1)[:, 1]
    torch.testing.assert_close(model.encode_image([picture(1), picture(2)]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode_text(TEXTS), expected_text, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.match([picture(1), picture(2)], TEXTS[:2]), expected_match, atol=1e-6, rtol=0)


def test_paths_pictures_and_tensors_are_taken_alike(load: Load, tmp_path: Path) -> None:
    model, image = load("pretrain"), picture(3)
    path = tmp_path / "image.png"
    image.save(path)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = model.encode_image(path)
    for given in (str(path), image, pixels, model.prepare_images(image), model.prepare_images(image)[0]):
        assert torch.equal(model.encode_image(given), expected)
    upright = picture(3).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated clockwise: the same picture again
    upright.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(model.encode_image(tmp_path / "turned.png"), expected)
    assert torch.equal(model.encode_image(Image.open(tmp_path / "turned.png")), expected)
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert torch.equal(model.encode_image(clear), model.encode_image(Image.new("RGB", (20, 20), "white")))


def test_batching_changes_nothing_and_calls_repeat_exactly(load: Load) -> None:
    model, images = load("pretrain"), [picture(seed) for seed in range(5)]
    assert torch.equal(model.encode_image(images), model.encode_image(images))
    torch.testing.assert_close(model.encode_image(images, batch_size=2), model.encode_image(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode_text(TEXTS, batch_size=1), model.encode_text(TEXTS), atol=1e-6, rtol=0)
    one_by_one = torch.cat([model.match(images[0], text) for text in TEXTS])
    torch.testing.assert_close(model.match(images[0], TEXTS, batch_size=2), one_by_one, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.match(images, TEXTS[0])[3:4], model.match(images[3], TEXTS[0]), atol=1e-6, rtol=0)
    assert model.encode_image(images).dtype == torch.float32


def test_pairs_in_any_order_match_as_each_does_alone_and_nothing_is_encoded_twice(load: Load, tmp_path: Path) -> None:
    model, encoded = load("retrieval"), []
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    texts = ["a red cup", "the cup", "a blue cup on the table", "a red cup", "cup", "the cup", "the table", "a red cup"]
    images = [paths[number] for number in (2, 0, 2, 2, 1, 0, 2, 2)]
    alone = torch.cat([model.match(image, text) for image, text in zip(images, texts, strict=True)])
    hooks = [
        part.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))
        for part in (model.task.model.visual_encoder, model.task.model.text_encoder)
    ]
    for size in (1, 2, 3, 32):
        encoded.clear()
        torch.testing.assert_close(model.match(images, texts, batch_size=size), alone, rtol=0, atol=1e-6)
        # An image whose texts are in several batches is encoded once.
        assert sum(encoded) == 3 + 5, size
    for hook in hooks:
        hook.remove()


def test_loading_draws_no_random_numbers(load: Load, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "pretrain")
    before = torch.get_rng_state()
    first, second = interface.load(folder), interface.load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.encode_text(TEXTS), second.encode_text(TEXTS))
    assert not first.task.training and not any(parameter.requires_grad for parameter in first.task.parameters())


def test_lower_precision_computes_in_it_and_still_gives_floats(load: Load, tmp_path: Path) -> None:
    model = interface.load(model_folder(tmp_path, "pretrain"), dtype="bf16")
    features = model.encode_image(picture(1))
    assert features.dtype == torch.float32
    assert next(model.task.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(features, load("pretrain").encode_image(picture(1)), atol=0.05, rtol=0)


def test_answers_are_written_or_chosen_from_a_list(load: Load) -> None:
    model = load("vqa")
    questions = ["what is on the table", "is the dog left of the cat"]
    chosen = model.answer([picture(1), picture(2)], questions, answers=["yes", "no", "two dogs"])
    assert len(chosen) == 2 and set(chosen) <= {"yes", "no", "two dogs"}
    assert chosen == [
        model.answer(picture(seed), q, ["yes", "no", "two dogs"])[0] for seed, q in zip((1, 2), questions, strict=True)
    ]
    written = model.answer(picture(1), questions, max_tokens=4)
    assert len(written) == 2 and all(len(answer.split()) <= 4 and "[" not in answer.replace("[UNK]", "") for answer in written)
    assert written == model.answer(picture(1), questions, max_tokens=4, batch_size=1)


def test_classes_of_one_and_of_two_pictures(load: Load) -> None:
    entailment = load("ve").classify([picture(1), picture(2)], TEXTS[:2])
    assert entailment.shape == (2, 3)
    pairs = load("nlvr").classify([picture(seed) for seed in range(4)], TEXTS[:2])
    assert pairs.shape == (2, 2)
    torch.testing.assert_close(pairs.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(load("nlvr").classify([picture(2), picture(3)], TEXTS[1]), pairs[1:], atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="give 2 per text"):
        load("nlvr").classify([picture(1)], TEXTS[0])


def test_grounding_gives_a_map_per_word_and_ranks_boxes(load: Load) -> None:
    boxes = [(0, 0, 20, 15), (20, 15, 40, 30), (0, 0, 40, 30)]
    result = load("retrieval").ground(picture(1), "red cup", boxes)
    assert result.heatmap.shape == (30, 40) and float(result.heatmap.max()) > 0
    assert [word for word, _ in result.words] == ["[CLS]", "red", "cup"]
    assert all(word_map.shape == (4, 4) for _, word_map in result.words)
    assert {box for _, box in result.boxes} == {tuple(map(float, box)) for box in boxes}
    scores = [score for score, _ in result.boxes]
    assert scores == sorted(scores, reverse=True)
    inside = {box: float(result.heatmap[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])].sum()) for _, box in result.boxes}
    for score, box in result.boxes:
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert score == pytest.approx(inside[box] / area**0.5)


def test_a_method_that_the_training_does_not_serve_names_the_kinds_that_do(load: Load) -> None:
    with pytest.raises(
        WeightsError, match="encode_image needs a model of kind pretrain or retrieval, but this one is of kind vqa"
    ):
        load("vqa").encode_image(picture(1))
    with pytest.raises(WeightsError, match="answer needs a model of kind vqa"):
        load("pretrain").answer(picture(1), "what")


def test_input_that_cannot_be_used_is_named(load: Load, tmp_path: Path) -> None:
    model = load("pretrain")
    (tmp_path / "text.png").write_text("no picture")
    for call, message in (
        (lambda: model.encode_image(tmp_path / "absent.png"), "absent.png cannot be read"),
        (lambda: model.encode_image(tmp_path / "text.png"), "text.png is not a usable image"),
        (lambda: model.encode_image(torch.zeros(3, 8, 8)), r"shape \[3, 8, 8\]"),
        (lambda: model.encode_image([]), "no image or text was given"),
        (lambda: model.encode_text("?!"), "nothing is left of the text"),
        (lambda: model.match([picture(1), picture(2)], TEXTS), "2 images do not fit 3 texts"),
        (lambda: model.ground(picture(1), "cup", [(50, 50, 60, 60)]), "covers no pixel"),
        (lambda: model.ground(picture(1), "cup", layer=9), "layer 9"),
        (lambda: interface.load(tmp_path / "nothing"), "does not exist"),
        (lambda: interface.load(tmp_path / "text.png"), r"is not one of \.safetensors"),
        (lambda: interface.load(tmp_path, device="gpu9"), "does|holds no|gpu9"),
        (lambda: interface.load(model_folder(tmp_path, "pretrain"), dtype="int8"), "dtype int8"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_vocabulary_of_another_size_is_refused(load: Load, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "pretrain")
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "more\n")
    with pytest.raises(ConfigError, match="word pieces"):
        interface.load(folder).encode_text("a cup")


def test_a_single_file_finds_its_vocabulary_beside_it(load: Load, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "pretrain")
    alone = folder / "alone.safetensors"
    convert(read_model(folder), alone, Options("safetensors", dtype="keep"))
    assert torch.equal(interface.load(alone).encode_text(TEXTS), load("pretrain").encode_text(TEXTS))


def test_the_documented_examples_run(tmp_path: Path) -> None:
    names = {"folder": model_folder(tmp_path, "retrieval"), "vqa_folder": model_folder(tmp_path, "vqa")}
    results = doctest.testmod(interface, extraglobs=names)
    assert results.attempted >= 8 and results.failed == 0


def test_one_text_is_one_candidate_and_what_cannot_be_ranked_is_one_line(load: Load) -> None:
    model = load("vqa")
    assert model.answer(picture(1), "what is on the table", "cup") == ["cup"]
    for answers, message in (([], "`answers` has no answer"), (["cup", ""], "answer '' of `answers` has no tokens")):
        with pytest.raises(DataError, match=message):
            model.answer(picture(1), "what is on the table", answers)


def test_answers_with_the_same_tokens_are_named(load: Load) -> None:
    with pytest.warns(Notice, match="answers 'zebra' and 'okapi' of `answers` have the same tokens"):
        load("vqa").answer(picture(1), "what is on the table", ["zebra", "cup", "okapi"])


def test_several_answers_come_with_their_probabilities(load: Load) -> None:
    model = load("vqa")
    questions, listed = ["what is on the table", "is the cup red"], ["cup", "ball", "two dogs", "yes"]
    ranked = model.answers(picture(1), questions, listed, top=3)
    assert [len(answers) for answers in ranked] == [3, 3]
    assert [answers[0][0] for answers in ranked] == model.answer(picture(1), questions, listed)
    for answers in model.answers(picture(1), questions, listed, top=9):
        probabilities = [probability for _, probability in answers]
        assert sorted(answer for answer, _ in answers) == sorted(listed)
        assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1.0)
    written = model.answers(picture(1), questions, top=1, max_tokens=4)
    assert [answers[0][0] for answers in written] == model.answer(picture(1), questions, max_tokens=4)
    with pytest.raises(ConfigError, match="top is 0: give 1 or more"):
        model.answers(picture(1), questions, listed, top=0)


def test_classes_have_names(load: Load) -> None:
    assert load("ve").class_names == ["contradiction", "neutral", "entailment"]
    assert load("nlvr").class_names == ["False", "True"]
    with pytest.raises(WeightsError, match="classify needs a model of kind classification"):
        _ = load("vqa").class_names


def test_a_model_of_another_image_size_has_the_table_of_fine_tuning(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "retrieval")
    model = interface.load(folder, device="cpu", overrides=["model.vision.image_size=48"])
    assert model.prepare_images(picture(1)).shape == (1, 3, 48, 48)
    assert 0 <= float(model.match(picture(1), "a red cup")) <= 1
    convert(read_model(folder, ["model.vision.image_size=48"]), tmp_path / "larger", Options("folder"))
    again = interface.load(tmp_path / "larger", device="cpu")
    assert torch.equal(again.encode_image(picture(1)), model.encode_image(picture(1)))
    table = read_model(folder).model.tensors[POSITION_EMBEDDING]
    expected = resize_position_embedding(table, 37, torch.float32).read()
    assert torch.equal(read_model(tmp_path / "larger").model.tensors[POSITION_EMBEDDING].read(), expected)
    with pytest.raises(ConfigError, match=r"model\.vision\.image_size 50 is not divisible by model\.vision\.patch_size 8"):
        interface.load(folder, overrides=["model.vision.image_size=50"])
