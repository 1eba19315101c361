"""Reads statements about images: NLVR2 (two images, true or false) and SNLI-VE (one image, three classes)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albef_ds.common.errors import DataError
from albef_ds.data.annotations.json_files import entries, field, read_json
from albef_ds.data.annotations.records import StatementRecord

NLVR_LABELS = {"False": 0, "True": 1}
ENTAILMENT_LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
"""Class numbers of the released code."""
_NLVR = "a list of {images: [a, b], sentence, label} or the official JSON lines"
_ENTAILMENT = "a list of {image, sentence, label} or the official snli_ve_*.jsonl"


def read_nlvr(path: Path) -> list[StatementRecord]:
    """Reads NLVR2: released {images: [left, right], sentence, label: "True"|"False"}, or official {identifier, sentence, label}.

    Official images are named after the identifier `SPLIT-SET-PAIR-SENTENCE`: `SPLIT-SET-PAIR-img0.png` and `-img1.png`,
    in a folder `train/DIRECTORY` or `SPLIT`.

    Raises:
        DataError: the file has another format or another label.
    """
    records = []
    for where, entry in entries(path, read_json(path), _NLVR):
        sentence = field(where, entry, "sentence", str)
        label = _label(where, entry, "label", NLVR_LABELS)
        if "images" in entry:
            images = field(where, entry, "images", list)
            if len(images) != 2 or not all(isinstance(image, str) for image in images):
                raise DataError(f"{where}: `images` is {images!r}: it must be two paths")
            records.append(StatementRecord(tuple(images), sentence, label, sentence))
            continue
        parts = field(where, entry, "identifier", str).split("-")
        if len(parts) != 4:
            raise DataError(f"{where}: `identifier` is {entry['identifier']!r}: it must be SPLIT-SET-PAIR-SENTENCE")
        split, number, pair, which = parts
        folder = f"train/{entry['directory']}" if "directory" in entry else split
        images = [f"{folder}/{split}-{number}-{pair}-img{side}.png" for side in (0, 1)]
        records.append(StatementRecord(tuple(images), sentence, label, f"{split}-{number}-{which}"))
    return records


def read_entailment(path: Path) -> list[StatementRecord]:
    """Reads SNLI-VE: released {image, sentence, label}, or official {Flickr30K_ID, sentence2, gold_label}.

    Official lines on which annotators did not agree (`gold_label` of `-`) are skipped.

    Raises:
        DataError: the file has another format or another label.
    """
    records = []
    for where, entry in entries(path, read_json(path), _ENTAILMENT):
        if "gold_label" in entry:
            if entry["gold_label"] == "-":
                continue
            image = f"{field(where, entry, 'Flickr30K_ID', (str, int))}.jpg"
            sentence, label = field(where, entry, "sentence2", str), _label(where, entry, "gold_label", ENTAILMENT_LABELS)
        else:
            image, sentence = field(where, entry, "image", str), field(where, entry, "sentence", str)
            label = _label(where, entry, "label", ENTAILMENT_LABELS)
        records.append(StatementRecord((image,), sentence, label))
    return records


def _label(where: str, entry: dict[str, Any], name: str, labels: dict[str, int]) -> int:
    value = entry.get(name)
    if str(value) not in labels:
        raise DataError(f"{where}: `{name}` is {value!r}: it must be one of {', '.join(labels)}")
    return labels[str(value)]
