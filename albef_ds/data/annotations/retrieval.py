"""Reads image-text retrieval: the released JSON lists and Karpathy's `dataset_*.json` for COCO and Flickr30K."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from albef_ds.common.errors import DataError
from albef_ds.data.annotations.json_files import entries, field, read_json, texts
from albef_ds.data.annotations.records import CaptionRecord

Split = Literal["train", "val", "test"]

_KIND = "a list of {image, caption} or Karpathy's dataset_coco.json / dataset_flickr30k.json"


def read_retrieval(path: Path, split: Split = "train") -> list[CaptionRecord]:
    """Returns images with captions; a file with one entry per caption gives one record per caption.

    Released files: a list of {image, caption: text or list, image_id}; they hold one split, so `split` has no effect.
    Karpathy's files: {images: [{filename, filepath, split, sentences: [{raw}]}]}; as usual, `train` includes COCO's `restval`.

    Raises:
        DataError: the file has neither format, or no image of the split.
    """
    raw = read_json(path)
    if isinstance(raw, dict) and "images" in raw:
        return _karpathy(path, raw, split)
    records = []
    for where, entry in entries(path, raw, _KIND):
        image = field(where, entry, "image", str)
        captions = texts(where, entry, "caption")
        records.append(CaptionRecord(image, captions, str(entry.get("image_id", image))))
    return records


def _karpathy(path: Path, raw: dict[str, Any], split: Split) -> list[CaptionRecord]:
    wanted = ("train", "restval") if split == "train" else (split,)
    records = []
    for where, entry in entries(path, raw["images"], _KIND):
        if field(where, entry, "split", str) not in wanted:
            continue
        name = field(where, entry, "filename", str)
        folder = entry.get("filepath", "")
        sentences = [
            field(f"{where} sentence {number}", sentence, "raw", str)
            for number, sentence in enumerate(field(where, entry, "sentences", list))
        ]
        if not sentences:
            raise DataError(f"{where}: has no sentence: {_KIND}")
        image = f"{folder}/{name}" if folder else name
        records.append(CaptionRecord(image, tuple(sentences), str(entry.get("cocoid", entry.get("imgid", image)))))
    if not records:
        raise DataError(f"{path} has no image of the split {split}: give Karpathy's file")
    return records
