"""Reads COCO captions and Visual Genome region descriptions in their official JSON formats."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import load_json
from data_tools.readers.json_forms import form_of
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list, id_of

_SHOWN = 1 << 20  # characters in which the form of a file is looked for


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
        form = form_of(json.dumps(raw)[:_SHOWN])
        raise DataError(
            f"{part} is not COCO's captions JSON (no {error}): {form}; give captions_train2014.json or its like"
        ) from None
    for image_id, name in names.items():
        _check_name(part, "file_name", name)
        path = spec.resolve(name, posixpath.dirname(part))
        missing = "" if captions[image_id] else NO_CAPTION
        yield Record(name, path, -1, -1, captions[image_id], id_of(image_id), missing, {"coco_id": image_id})


def _check_name(part: str, key: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise DataError(f"{part} has an image whose {key} is {str(name)[:80]!r}: give its name as text")


def read_visual_genome(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per image with its region phrases; `second` is image_data.json, whose COCO ids are kept.

    Older releases call an image's `image_id` `id` in the image list, and `image` in a region. Raises UserError if a file has
    another format or `second` is not set.
    """
    if not spec.second:
        raise ConfigError(f"source {spec.name} needs the image list of Visual Genome: add second=PATH/image_data.json")
    try:
        images = {_first(image, "image_id", "id"): image for image in load_json(Path(spec.second))}
        regions: dict[Any, list[Any]] = {}
        for entry in load_json(Path(part)):
            # Entries of some releases have no id; their regions name the image.
            if "id" in entry or "image_id" in entry:
                regions.setdefault(_first(entry, "id", "image_id"), []).extend(entry["regions"])
            elif entry["regions"]:
                regions.setdefault(_first(entry["regions"][0], "image_id", "image"), []).extend(entry["regions"])
        for image_id in regions.keys() - images.keys():
            problems.add("regions of an unlisted picture", str(image_id))
        for image_id, image in images.items():
            phrases = [text for region in regions.get(image_id, []) for text in caption_list(region["phrase"])]
            # The published archives unpack to the last two parts of the URL (VG_100K_2/1.jpg).
            listed = "/".join(image["url"].split("/")[-2:])
            path = spec.resolve(listed, posixpath.dirname(part))
            coco_id = id_of(image.get("coco_id"))
            extra = {"coco_id": int(coco_id) if coco_id.isdecimal() else coco_id} if coco_id else {}
            captions = list(dict.fromkeys(phrases))
            yield Record(listed, path, -1, -1, captions, id_of(image_id), "" if captions else NO_CAPTION, extra)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{part} or {spec.second} is not Visual Genome's JSON (no {error}): give the official files") from None


def _first(entry: dict[str, Any], *keys: str) -> Any:
    """The value of the first of `keys` that `entry` has. Raises KeyError if it has none."""
    return entry[next((key for key in keys if key in entry), keys[0])]
