"""Reads COCO captions and Visual Genome region descriptions in their official JSON formats."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import load_json
from data_tools.readers.source import Problems, Record, SourceSpec, caption_list


def one_file(spec: SourceSpec) -> list[str]:
    """The one annotation file."""
    return [spec.path]


def read_coco(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per image of `captions_*.json`, with all its captions. Raises DataError if the file has another format."""
    raw = load_json(Path(part))
    try:
        names = {image["id"]: image["file_name"] for image in raw["images"]}
        captions: dict[Any, list[str]] = {image_id: [] for image_id in names}
        for annotation in raw["annotations"]:
            if annotation["image_id"] in captions:
                captions[annotation["image_id"]] += caption_list(annotation["caption"])
            else:
                problems.add("annotation of an unlisted picture", str(annotation["image_id"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{part} is not COCO's captions JSON (no {error}): give captions_train2014.json or its like") from None
    for image_id, name in names.items():
        path = spec.resolve(name, posixpath.dirname(part))
        missing = "" if captions[image_id] else "no caption"
        yield Record(name, path, -1, -1, captions[image_id], str(image_id), missing, {"coco_id": image_id})


def read_visual_genome(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per image with its region phrases; `second` is image_data.json, whose COCO ids are kept.

    Raises UserError if a file has another format or `second` is not set.
    """
    if not spec.second:
        raise ConfigError(f"source {spec.name} needs the image list of Visual Genome: add second=PATH/image_data.json")
    try:
        images = {image["image_id"]: image for image in load_json(Path(spec.second))}
        # Entries of some releases have no id; their regions name the image.
        regions = {
            entry["id"] if "id" in entry else entry["regions"][0]["image_id"]: entry["regions"]
            for entry in load_json(Path(part))
            if "id" in entry or entry["regions"]
        }
        for image_id in regions.keys() - images.keys():
            problems.add("regions of an unlisted picture", str(image_id))
        for image_id, image in images.items():
            phrases = [text for region in regions.get(image_id, []) for text in caption_list(region["phrase"])]
            # The published archives unpack to the last two parts of the URL (VG_100K_2/1.jpg).
            listed = "/".join(image["url"].split("/")[-2:])
            path = spec.resolve(listed, posixpath.dirname(part))
            extra = {"coco_id": image["coco_id"]} if image.get("coco_id") is not None else {}
            captions = list(dict.fromkeys(phrases))
            yield Record(listed, path, -1, -1, captions, str(image_id), "" if captions else "no caption", extra)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{part} or {spec.second} is not Visual Genome's JSON (no {error}): give the official files") from None
