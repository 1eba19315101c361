"""Reads statements about images: NLVR2 (two images, true or false) and SNLI-VE (one image, three classes)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from albef_ds.common.errors import DataError
from albef_ds.config.tasks import ENTAILMENT_LABELS, NLVR_LABELS
from albef_ds.data.annotations.json_files import entries, field, read_json
from albef_ds.data.annotations.records import StatementRecord
from albef_ds.data.shards.format import PICTURE_ENDINGS

_NLVR = "a list of {images: [a, b], sentence, label} or the official JSON lines"
_ENTAILMENT = "a list of {image, sentence, label} or the official snli_ve_*.jsonl"
_FLICKR_IDS = ("Flickr30K_ID", "Flikr30kID")
"""The key of the image in the two releases of the official files."""


def read_nlvr(path: Path, labels: Mapping[str, int] = NLVR_LABELS) -> list[StatementRecord]:
    """Reads NLVR2: released {images: [left, right], sentence, label: "True"|"False"}, or official {identifier, sentence, label}.

    Official images are named after the identifier `SPLIT-SET-PAIR-SENTENCE`: `SPLIT-SET-PAIR-img0.png` and `-img1.png`,
    in a folder `train/DIRECTORY` or `SPLIT`. `labels` maps each label to the number of its class.

    Raises:
        DataError: the file has another format or another label.
    """
    records = []
    for where, entry in entries(path, read_json(path), _NLVR):
        sentence = field(where, entry, "sentence", str)
        label = _label(where, entry, "label", labels)
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


def read_entailment(path: Path, labels: Mapping[str, int] = ENTAILMENT_LABELS) -> list[StatementRecord]:
    """Reads SNLI-VE: released {image, sentence, label}, or official {Flickr30K_ID or Flikr30kID, sentence2, gold_label}.

    Images are files of Flickr30K. The released lists and the later official files name them without `.jpg`, which is added.
    Official lines on which annotators did not agree (`gold_label` of `-`) are skipped. `labels` maps each label to the number of
    its class.

    Raises:
        DataError: the file has another format or another label.
    """
    records = []
    for where, entry in entries(path, read_json(path), _ENTAILMENT):
        if "gold_label" in entry:
            if entry["gold_label"] == "-":
                continue
            name = next((name for name in _FLICKR_IDS if name in entry), _FLICKR_IDS[0])
            image = _flickr_file(field(where, entry, name, (str, int)))
            sentence, label = field(where, entry, "sentence2", str), _label(where, entry, "gold_label", labels)
        else:
            image, sentence = _flickr_file(field(where, entry, "image", (str, int))), field(where, entry, "sentence", str)
            label = _label(where, entry, "label", labels)
        records.append(StatementRecord((image,), sentence, label))
    return records


def _flickr_file(image: str | int) -> str:
    """Returns the file name of an image that may be named by its number alone."""
    name = str(image)
    return name if PurePosixPath(name).suffix.lower() in PICTURE_ENDINGS else f"{name}.jpg"


def _label(where: str, entry: dict[str, Any], name: str, labels: Mapping[str, int]) -> int:
    value = entry.get(name)
    if str(value) not in labels:
        raise DataError(f"{where}: `{name}` is {value!r}: it must be one of {', '.join(labels)}, or set task.class_names")
    return labels[str(value)]
