"""Official files in all their releases; a file given to the wrong reader is called by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import DataError
from tests.data_tools.readers.reading import read

KARPATHY = {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a cat"}]}], "dataset": "coco"}
COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}


def saved(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("json", KARPATHY, r"line 1 begins an object.*Karpathy's dataset"),
        ("json", COCO, "which the kind coco reads"),
        ("json", {"image_urls": [], "captions": []}, "which the kind sbu reads"),
        ("json", {"image": "a", "caption": "b"}, "JSON lines, which the kind table reads"),
        ("json", {"x": 1}, "give a list"),
        ("coco", KARPATHY, r"Karpathy's dataset"),
        ("coco", [{"image": "a", "caption": "b"}], "not COCO's captions JSON"),
        ("coco", COCO | {"images": [{"id": 1, "file_name": 7}]}, "file_name is '7'"),
        ("coco", COCO | {"images": [{"id": 1, "file_name": None}]}, "file_name is 'None'"),
        ("coco", COCO | {"images": {"id": 1}}, "not COCO's captions JSON"),
        ("sbu", {"image_urls": [7], "captions": ["a"]}, "has no URL but 7"),
    ],
)
def test_a_file_for_another_reader_is_called_by_its_name(tmp_path: Path, kind: str, value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(f"x={kind}:{saved(tmp_path / 'f.json', value)},pattern={{index}}.jpg")


def test_all_releases_of_visual_genome_give_the_same_records(tmp_path: Path) -> None:
    phrases = [{"phrase": "a red car"}]
    releases = [
        ({"image_id": 1}, {"id": 1, "regions": phrases}),
        ({"id": 1}, {"id": 1, "regions": phrases}),
        ({"image_id": 1}, {"regions": [phrases[0] | {"image_id": 1}]}),
        ({"id": 1}, {"regions": [phrases[0] | {"image": 1}]}),
        ({"id": 1.0}, {"image_id": 1, "regions": phrases}),
    ]
    for image, region in releases:
        images = saved(tmp_path / "images.json", [image | {"url": "u/VG_100K/1.jpg", "coco_id": 5.0}])
        records, _ = read(f"vg=visual-genome:{saved(tmp_path / 'regions.json', [region])},second={images},images=/vg")
        assert [(r.image_id, r.captions, r.extra) for r in records] == [("1", ["a red car"], {"coco_id": 5})]


def test_url_lists_with_a_byte_order_mark_or_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_bytes(b'\xef\xbb\xbfa cat\thttp://x/1.jpg\n"caf\xe9\thttp://[/2.jpg\n')
    records, problems = read(f"x=cc3m:{tmp_path}/cc3m.tsv,pattern={{basename}}")
    assert [(r.captions, r.id) for r in records] == [(["a cat"], "1.jpg"), (['"caf\ufffd'], "2.jpg")]
    assert problems.counts == {"text that is not UTF-8": 1}
