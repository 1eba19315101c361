"""How many words and tokens of a text the released code reads, by task, in training and in evaluation; what is cut is said once.

Source: `max_words` of the released datasets, and `max_length` and `truncation` in its calls of the tokenizer (b9727e4).
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.common.errors import ConfigError
from albef_ds.common.notices import Notice
from albef_ds.config.data import RELEASED_LIMITS, DataConfig
from albef_ds.config.files import from_dict, to_dict
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig, TextConfig
from albef_ds.data.annotations.records import CaptionRecord, QuestionRecord
from albef_ds.data.evaluation_sets.annotated import PairSet, TextImageSet
from albef_ds.data.stream.builders import QuestionBuilder
from albef_ds.data.text.tokenizer import CaptionTokenizer
from albef_ds.evaluation.protocols import as_released
from albef_ds.inference.model import load
from tests.checkpoint.formats.released_files import HEADS, state_dict
from tests.inference.tiny_models import model_folder, picture

ALL = 512
"""Length of BERT's position table."""
LIMITS = {  # words and tokens in training, words and tokens in evaluation
    "pretrain_4m": (30, 25, 30, 30),
    "nlvr_pretrain": (30, 25, 30, 25),
    "retrieval_flickr": (30, ALL, 30, 30),
    "retrieval_coco": (30, ALL, 30, 30),
    "grounding_refcoco": (30, ALL, 30, ALL),
    "snli_ve": (30, ALL, 30, ALL),
    "nlvr": (30, ALL, 30, ALL),
    "vqa": (30, 25, 50, ALL),
}
LONG = " ".join(["the"] * 60)


def limits(config: RunConfig) -> tuple[int, int, int, int]:
    training, evaluation = config.training_data, config.evaluation_data
    return training.max_words, training.max_tokens, evaluation.max_words, evaluation.max_tokens


@pytest.mark.parametrize("recipe", LIMITS)
def test_recipes_read_as_much_of_a_text_as_the_released_code(recipe: str) -> None:
    assert limits(get_recipe(recipe)) == LIMITS[recipe]


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("pretrain", "pretrain_4m"), ("retrieval", "retrieval_coco"), ("ve", "snli_ve"), ("nlvr", "nlvr"), ("vqa", "vqa")],
)
def test_released_files_are_read_with_the_limits_of_their_task(tmp_path: Path, kind: str, recipe: str) -> None:
    torch.save(state_dict(kind), tmp_path / "released.pth")
    config = read_model(tmp_path / "released.pth", HEADS).model.config
    positions = config.model.text.max_positions  # 17 in the golden set's models
    assert limits(config) == tuple(min(limit, positions) if number % 2 else limit for number, limit in enumerate(LIMITS[recipe]))


def test_a_protocol_cuts_texts_as_the_released_retrieval_whatever_the_model_does() -> None:
    assert limits(as_released(get_recipe("debug")))[2:] == (30, 30)


def test_settings_from_before_the_limits_of_evaluation_are_one_limit() -> None:
    settings = to_dict(replace(RunConfig(), data=DataConfig(max_words=20, max_tokens=12)))
    old = {name: value for name, value in settings["data"].items() if not name.startswith("eval_max")}
    assert limits(from_dict(settings | {"data": old})) == (20, 12, 20, 12)


def test_no_limit_is_that_of_the_position_table() -> None:
    small = replace(get_recipe("nlvr"), model=replace(get_recipe("nlvr").model, text=TextConfig(max_positions=16)))
    assert limits(small) == (30, 16, 30, 16)
    assert get_recipe("nlvr").text_length == 40 and small.text_length == 16  # for plans: 4 tokens per 3 words
    with pytest.raises(ConfigError, match=r"data\.max_tokens is 1: give at least 2 .*or 0 for all"):
        DataConfig(max_tokens=1)


def test_answers_are_never_cut() -> None:
    """The released code gives the tokenizer no `max_length` for answers."""
    config = get_recipe("vqa").training_data
    record = QuestionRecord(question_id=1, image="1.jpg", question=LONG, answers=((LONG, 1.0),))
    content = picture_bytes()
    builder = QuestionBuilder(replace(config, rand_augment=False), 32, 0)
    batch = builder.collate([builder.build(record, [content], 0)])
    assert batch.token_ids.shape == (1, 25) and batch.answer_ids.shape == (1, 62)
    assert builder.num_cut == 1


def picture_bytes() -> bytes:
    buffer = io.BytesIO()
    picture(1).save(buffer, "JPEG")
    return buffer.getvalue()


def notices(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]


def test_an_evaluation_says_once_how_many_texts_it_cuts(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    data = replace(get_recipe("retrieval_coco").evaluation_data, image_root=str(tmp_path))
    records = [CaptionRecord(image="1.png", captions=(LONG, f"{LONG} dog", "a dog"), image_id="1")]
    with pytest.warns(Notice, match=r"1 of 2 texts have more than 30 words or 30 tokens and are cut: data\.eval_max_words"):
        chosen = PairSet(records, data, 32)
    assert [part.shape for part, _ in chosen.text_batches(4)] == [(2, 30)]
    questions = [QuestionRecord(question_id=1, image="1.png", question=LONG.removeprefix("the " * 10), answers=())]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vqa = replace(get_recipe("vqa").evaluation_data, image_root=str(tmp_path))
        assert TextImageSet(questions, vqa, 32).batch([0]).token_ids.shape == (1, 51)


def test_a_model_in_use_says_once_that_it_cuts_a_text(tmp_path: Path) -> None:
    model = load(model_folder(tmp_path, "pretrain"))  # 25 tokens
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.match(picture(1), [LONG, f"{LONG} dog", "a dog"])
        model.encode_text(LONG)
    [said] = notices(caught)
    assert "are cut to 30 words and 25 tokens: data.eval_max_words and data.eval_max_tokens are the limits" in said


def test_a_text_is_cut_after_words_and_after_tokens() -> None:
    tokenizer = CaptionTokenizer(max_tokens=5, max_words=3)
    assert tokenizer.read("a dog, runs")[0] == "a dog runs" and tokenizer.num_cut == 0
    assert tokenizer.read("a dog runs far")[0] == "a dog runs" and tokenizer.num_cut == 1
    assert len(tokenizer.read("unbelievable snowmobiles snow")[1]) == 5 and tokenizer.num_cut == 2
    tokenizer.read("unbelievable snowmobiles on unbelievable snow")
    assert tokenizer.num_cut == 3  # both limits, one text
    assert len(CaptionTokenizer(max_tokens=0).encode(LONG)) == 61


def test_the_table_is_the_one_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "finetuning.md").read_text()
    for kind, row in RELEASED_LIMITS.items():
        cells = " | ".join(str(limit) if limit else "all" for limit in row)
        assert f"| `{kind}` | {cells} |" in page, json.dumps(row)
