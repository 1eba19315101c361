"""The tokenizer that model folders carry gives other programs the ids that the model was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from albef_ds.config.schema import DataConfig
from albef_ds.data.text.tokenizer import CaptionTokenizer
from albef_ds.data.text.tokenizer_file import SETTINGS_NAME, TOKENIZER_NAME, as_file, settings

TEXTS = [
    "a dog",
    "Two cats on a mat.",
    'unbelievable -- it\'s "raining" (again)!',
    "<person> and <PERSON> near the traffic-light / crossing",
    "  spaces   and\ttabs \n",
    "#hashtag *bold* a:b;c ~tilde",
    "Caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \u4e2d\u6587",
    "[SEP] [MASK] written as text",
    " ".join(f"word{number}" for number in range(60)),
    " ".join(["unaffable"] * 29),
    "x" * 150,
    "?!",
]
SECTIONS = [
    DataConfig(),
    replace(DataConfig(), sep_token=True),
    replace(DataConfig(), max_tokens=40, max_words=30),
    replace(DataConfig(), max_tokens=100, max_words=5),
]


@pytest.mark.parametrize("section", SECTIONS, ids=["released", "with [SEP]", "longer", "few words"])
def test_both_give_the_same_ids(section: DataConfig, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    as_file(section).save(str(tmp_path / TOKENIZER_NAME))
    (tmp_path / SETTINGS_NAME).write_text(json.dumps(settings(section)))
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(tmp_path), CaptionTokenizer.from_config(section)
    for text in TEXTS:
        expected = ours.read(text)[1].tolist()
        found = theirs(text, truncation=True)["input_ids"]
        if len(expected) == 1 and section.sep_token:  # nothing is left: ours has no [SEP] then
            found = found[:1]
        assert found == expected, text
