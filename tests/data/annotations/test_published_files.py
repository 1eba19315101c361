"""Annotation files as they are published, in all their spellings, and what is said of one that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.common.errors import DataError
from albef_ds.data.annotations.json_files import read_json
from albef_ds.data.annotations.statements import read_entailment, read_nlvr


@pytest.mark.parametrize("name", ["dev.json", "dev.jsonl"])
@pytest.mark.parametrize("count", [1, 3])
def test_json_lines_are_read_under_either_ending(tmp_path: Path, name: str, count: int) -> None:
    lines = [{"identifier": f"dev-{n}-0-0", "sentence": "A dog\u2028and\u0085a cat.", "label": "True"} for n in range(count)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    if count > 1 or name.endswith("l"):
        assert read_json(tmp_path / name) == lines
        assert read_nlvr(tmp_path / name)[-1].images == (f"dev/dev-{count - 1}-0-img0.png", f"dev/dev-{count - 1}-0-img1.png")


def test_a_list_under_the_ending_of_json_lines_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[{"a": 1},\n {"a": 2}]')
    assert read_json(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1},\n {"a": ', "line 2: Expecting value.*ends early, fetch it again"),
        ('[{"a": 1},\n {"a": "b', "line 2.*ends early, fetch it again"),
        ('{"a": 1}\n{"a": "b', "line 2.*ends early, fetch it again"),
        ("", "line 1.*ends early, fetch it again"),
        ('{"a": 1}\n{"a": \n{"a": 2}', "line 2.*correct that line"),
        ('[{"a": 1},\n {"a" 2},\n {}]', "line 2.*correct that line"),
        ('[{"a": 1}\n]\nmore', "line 3.*correct that line"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[" + "1" * 5000 + "]", "cannot be read as JSON"),
    ],
)
def test_the_advice_fits_the_fault(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_every_spelling_of_snli_ve_names_the_same_file(tmp_path: Path) -> None:
    official = {"sentence2": "A man sleeps.", "gold_label": "entailment"}
    released = {"sentence": "A man sleeps.", "label": "entailment"}
    entries = [
        {"Flickr30K_ID": "1000"} | official,
        {"Flickr30K_ID": 1000} | official,
        {"Flikr30kID": "1000.jpg"} | official,
        {"image": "1000"} | released,
        {"image": "1000.jpg"} | released,
        {"image": 1000} | released,
    ]
    (tmp_path / "ve.json").write_text(json.dumps(entries))
    assert [record.images for record in read_entailment(tmp_path / "ve.json")] == [("1000.jpg",)] * len(entries)
    (tmp_path / "ve.json").write_text(json.dumps([{"image": "a.b/1000.PNG"} | released, {"image": "scene.7"} | released]))
    assert [record.images for record in read_entailment(tmp_path / "ve.json")] == [("a.b/1000.PNG",), ("scene.7.jpg",)]
