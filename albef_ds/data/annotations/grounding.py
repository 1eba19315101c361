"""Reads referring expressions: the released RefCOCO+ lists, the boxes they refer to, and a detector's proposals.

The boxes are COCO's: `instances.json` has a box per annotation, and `refs.json` the annotation of each expression. The published
`refs(unc).p` is a pickle, which is never read here: write its list of {ref_id, ann_id, image_id, split} as JSON first
(docs/evaluation.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albef_ds.common.errors import DataError
from albef_ds.data.annotations.json_files import entries, field, read_json, texts
from albef_ds.data.annotations.records import Box, CaptionRecord, ExpressionRecord

SPLITS = ("val", "testA", "testB", "test")
"""Splits that are scored: RefCOCO and RefCOCO+ have testA and testB, RefCOCOg has test."""
_KIND = "a list of {image, text, ref_id}"


def read_grounding_train(path: Path) -> list[CaptionRecord]:
    """Returns images with expressions from {image, text, ref_id}, for training as image-text retrieval without boxes."""
    return [
        CaptionRecord(image := field(where, entry, "image", str), texts(where, entry, "text"), image)
        for where, entry in entries(path, read_json(path), _KIND)
    ]


def read_expressions(path: Path, refs: Path, instances: Path, detections: Path | None) -> list[ExpressionRecord]:
    """Returns expressions with boxes and proposals, one record per expression.

    Args:
        path: the released list {image, text: text or list, ref_id}.
        refs: JSON list {ref_id, ann_id, image_id, split}.
        instances: COCO's {images: [{id, width, height}], annotations: [{id, bbox}]}.
        detections: the released `dets.json`, {image_id: [[left, top, width, height, ...], ...]}; None: no proposals.

    Raises:
        DataError: a file has another format, or an id has no entry.
    """
    meant = {field(where, ref, "ref_id", int): ref for where, ref in entries(refs, read_json(refs), "a list of refs")}
    sizes, boxes = _instances(instances)
    proposals = _detections(detections) if detections else None
    records = []
    for where, entry in entries(path, read_json(path), _KIND):
        ref = _found(where, "ref_id", field(where, entry, "ref_id", int), meant, refs)
        image_id = field(f"{refs} ref {ref['ref_id']}", ref, "image_id", int)
        split = field(f"{refs} ref {ref['ref_id']}", ref, "split", str)
        if split not in SPLITS:
            raise DataError(f"{refs} ref {ref['ref_id']}: `split` is {split!r}: it must be one of {', '.join(SPLITS)}")
        box = _found(f"{refs} ref {ref['ref_id']}", "ann_id", field(str(refs), ref, "ann_id", int), boxes, instances)
        width, height = _found(f"{refs} ref {ref['ref_id']}", "image_id", image_id, sizes, instances)
        offered: tuple[Box, ...] = ()
        if proposals is not None and detections is not None:
            offered = _found(f"{refs} ref {ref['ref_id']}", "image_id", str(image_id), proposals, detections)
        image = field(where, entry, "image", str)
        for text in texts(where, entry, "text"):
            records.append(ExpressionRecord(image, text, ref["ref_id"], box, offered, width, height, split))
    return records


def _found(where: str, name: str, key: Any, table: dict[Any, Any], path: Path) -> Any:
    if key not in table:
        raise DataError(f"{where}: `{name}` {key} is not in {path}: give files of one release")
    return table[key]


def _instances(path: Path) -> tuple[dict[int, tuple[int, int]], dict[int, Box]]:
    raw = read_json(path)
    if not isinstance(raw, dict) or not {"images", "annotations"} <= raw.keys():
        raise DataError(f"{path} holds no `images` and `annotations`: give COCO's instances JSON")
    kind = "COCO's instances JSON"
    sizes = {
        field(where, image, "id", int): (field(where, image, "width", int), field(where, image, "height", int))
        for where, image in entries(path, raw["images"], kind)
    }
    return sizes, {
        field(where, entry, "id", int): _box(where, field(where, entry, "bbox", list))
        for where, entry in entries(path, raw["annotations"], kind)
    }


def _detections(path: Path) -> dict[str, tuple[Box, ...]]:
    raw = read_json(path)
    if not isinstance(raw, dict) or not all(isinstance(boxes, list) for boxes in raw.values()):
        raise DataError(f"{path} is not an object of lists of boxes by image id: give the released dets.json")
    return {image_id: tuple(_box(f"{path} image {image_id}", box) for box in boxes) for image_id, boxes in raw.items()}


def _box(where: str, values: Any) -> Box:
    if not isinstance(values, list) or len(values) < 4 or not all(isinstance(value, int | float) for value in values[:4]):
        raise DataError(f"{where}: a box is {values!r}: it must be [left, top, width, height]")
    left, top, width, height = (float(value) for value in values[:4])
    return left, top, width, height
