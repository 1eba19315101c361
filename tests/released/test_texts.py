"""How the released code reads texts, under `task.compat`.

Source: `pre_caption` and `pre_question` in dataset/utils.py of the released code (b9727e4), its evaluation sets in
dataset/caption_dataset.py, and BertTokenizer, which takes special tokens out of a text before anything else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from albef_ds.common.errors import DataError
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.records import CaptionRecord, QuestionRecord
from albef_ds.data.evaluation_sets.annotated import PairSet, TextImageSet
from albef_ds.data.text.clean import clean_question
from albef_ds.data.text.tokenizer import CaptionTokenizer
from tests.inference.tiny_models import picture

OURS, RELEASED = DataConfig().in_evaluation(512), DataConfig().in_evaluation(512, compat=True)


@pytest.fixture
def root(tmp_path: Path) -> str:
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    return str(tmp_path)


def settings(root: str, *, compat: bool) -> DataConfig:
    return DataConfig(image_root=root, compat=compat).in_evaluation(512)


def test_person_stays_in_questions_and_not_in_captions() -> None:
    assert clean_question("What is <person>'s  left-hand doing? ") == "what is <person>s  left hand doing"
    tokenizers = [CaptionTokenizer.from_config(data) for data in (OURS, RELEASED)]
    asked = [tokenizer.decode(tokenizer.read("is <person> here?", question=True)[1].tolist()) for tokenizer in tokenizers]
    assert asked == [["[CLS]", "is", "person", "here"], ["[CLS]", "is", "<", "person", ">", "here"]]
    assert [tokenizer.read("<person> here")[0] for tokenizer in tokenizers] == ["person here"] * 2


def test_questions_of_an_evaluation_are_read_so(root: str) -> None:
    question = [QuestionRecord("0.png", "is <person> here?", 1, ())]
    lengths = [
        TextImageSet(question, settings(root, compat=compat), 32).batch([0]).token_ids.shape[1] for compat in (False, True)
    ]
    assert lengths == [4, 6]


def test_special_tokens_written_as_text_are_special() -> None:
    """Only answers reach the tokenizer with capitals: captions and questions are in lower case by then."""
    ours, released = (CaptionTokenizer.for_answers(data) for data in (OURS, RELEASED))
    assert released.encode("a [MASK]dog").tolist() == [101, 1037, 103, 3899, 102]
    assert released.encode("a [mask] dog").tolist() == ours.encode("a [mask] dog").tolist()
    assert ours.decode(ours.encode("a [MASK]dog").tolist()) == ["[CLS]", "a", "[", "mask", "]", "dog", "[SEP]"]


def test_an_equal_caption_of_one_image_counts_again(root: str) -> None:
    records = [CaptionRecord("0.png", ("A dog.", "a dog", "a cat"), "0"), CaptionRecord("1.png", ("a dog",), "1")]
    ours, released = (PairSet(records, settings(root, compat=compat), 32) for compat in (False, True))
    assert (ours.captions, ours.caption_image.tolist()) == (["a dog", "a cat", "a dog"], [0, 0, 1])
    assert released.captions == ["a dog", "a dog", "a cat", "a dog"] and released.caption_image.tolist() == [0, 0, 0, 1]


def test_a_caption_of_punctuation_only_is_scored(root: str) -> None:
    records = [CaptionRecord("0.png", ("?!", "a dog"), "0")]
    released = PairSet(records, settings(root, compat=True), 32)
    [(_, mask)] = released.text_batches(4)
    assert mask.sum(dim=1).tolist() == [1, 3]  # [CLS] alone
    with pytest.raises(DataError, match="is empty after cleaning"):
        PairSet(records, settings(root, compat=False), 32)


def test_compat_of_the_task_is_that_of_the_data() -> None:
    config = get_recipe("vqa")
    assert not config.training_data.compat and not config.evaluation_data.compat
    compat = replace(config, task=replace(config.task, compat=True))
    assert compat.training_data.compat and compat.evaluation_data.compat and not compat.data.compat
