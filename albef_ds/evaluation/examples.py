"""Images for TensorBoard at every evaluation: examples with their texts, the images that captions retrieve, and Grad-CAM.

They show the first samples of the validation split, the same at every evaluation. Nothing is random and the model keeps nothing,
so a run's losses do not change. The grid is ordered by ITC among at most GALLERY images and is not a recall.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from albef_ds.common import comm
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.read import read_records
from albef_ds.data.annotations.records import Box, CaptionRecord, ExpressionRecord
from albef_ds.data.evaluation_sets.annotated import PairSet, TextImageSet, record_text
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.data.images.normalise import to_pil_image
from albef_ds.evaluation.evaluate import has_corpus
from albef_ds.evaluation.heatmap import overlay
from albef_ds.metrics.over_ranks import eval_mode
from albef_ds.models.gradcam import itm_gradcam
from albef_ds.tasks.base import Task
from albef_ds.tasks.contrastive import ContrastiveTask
from albef_ds.tasks.registry import evaluation_of

GALLERY = 64
"""Largest number of images that captions choose from."""
SHOWN = 5
"""Images shown per caption."""
_SIDE, _TEXT = 112, 170  # pixels: height of an image, width of the column of texts
_RIGHT = (26, 127, 55)


@dataclass(frozen=True)
class Examples:
    """N images with one text each; the first `num_shown` are drawn, all are candidates of the grid."""

    images: Tensor
    """float32 (N, 3, S, S)."""
    token_ids: Tensor
    token_mask: Tensor
    texts: list[str]
    num_shown: int
    boxes: list[Box] | None = None
    """Box of each text's object, as shares of width and height; None if not annotated."""


def read_examples(config: RunConfig) -> Examples | None:
    """The first samples of the validation split; None without one.

    Raises:
        UserError: files or images cannot be used.
    """
    data, side = config.evaluation_data, config.model.vision.image_size
    shown, evaluation = config.train.eval_pictures, evaluation_of(config)
    if data.eval_annotations and evaluation is not None:
        records = read_records(evaluation.read, config, data.eval_annotations, "val")
        if isinstance(records[0], CaptionRecord):
            return _pairs(PairSet(cast(list[CaptionRecord], records), data, side, limit=GALLERY), shown)
        chosen: list[Any] = records[:shown]
        batch = TextImageSet(chosen, data, side).batch(range(len(chosen)))
        # NLVR2 has two images per sentence: put them side by side.
        images = batch.images if batch.images.dim() == 4 else torch.cat(list(batch.images.unbind(1)), dim=-1)
        boxes = [_share(record.box, record.width, record.height) for record in chosen if isinstance(record, ExpressionRecord)]
        texts = [record_text(record) for record in chosen]
        return Examples(images, batch.token_ids, batch.token_mask, texts, shown, boxes or None)
    if has_corpus(config):
        return _pairs(RetrievalSet(data.eval_shards, data, side, limit=GALLERY), shown)
    return None


def _pairs(data: RetrievalSet | PairSet, shown: int) -> Examples:
    """Every image with its first caption."""
    owners = data.caption_image.tolist()
    first = [owners.index(number) for number in range(data.num_images)]
    [(ids, mask)] = list(data.text_batches(len(owners)))
    texts = [data.captions[number] for number in first]
    return Examples(data.images(range(data.num_images)), ids[first], mask[first], texts, min(shown, data.num_images))


def draw(task: Task, examples: Examples, device: torch.device, batch_size: int) -> tuple[dict[str, Image.Image], str]:
    """Images by name, and a remark if one cannot be drawn; both empty on ranks other than 0.

    All ranks must call it together if parameters are sharded, otherwise rank 0 may call it alone.
    """
    shown = enumerate(examples.texts[: examples.num_shown])
    named = {"examples": _table([(text, [(to_pil_image(examples.images[number]), False)]) for number, text in shown])}
    remark = ""
    if isinstance(task, ContrastiveTask):
        with eval_mode(task.model, task.itm_head):
            named["retrieval_grid"] = _grid(task, examples, device, batch_size)
            if is_sharded(task):
                remark = "Grad-CAM is not drawn: it needs whole parameters, which engine.stage=3 does not keep"
            else:
                named["gradcam"] = _heat(task, examples, device)
    return (named, remark) if comm.rank() == 0 else ({}, "")


def is_sharded(task: Task) -> bool:
    """True if this rank holds only parts of the parameters (ZeRO-3)."""
    return any(parameter.numel() == 0 for parameter in task.parameters())


@torch.no_grad()
def _grid(task: ContrastiveTask, examples: Examples, device: torch.device, batch_size: int) -> Image.Image:
    """One row per caption with its closest images, best first; its own is outlined."""
    model = task.model
    starts = range(0, len(examples.images), batch_size)
    batches = (examples.images[start : start + batch_size].to(device) for start in starts)
    features = [model.project_image(model.encode_image(images)).float() for images in batches]
    ids, mask = (part[: examples.num_shown].to(device) for part in (examples.token_ids, examples.token_mask))
    queries = model.project_text(model.encode_text(ids, mask), mask).float()
    best = (queries @ torch.cat(features).t()).topk(min(SHOWN, len(examples.images)), dim=1).indices.tolist()
    rows = []
    for query, answers in enumerate(best):
        rows.append((examples.texts[query], [(to_pil_image(examples.images[answer]), answer == query) for answer in answers]))
    return _table(rows)


def _heat(task: ContrastiveTask, examples: Examples, device: torch.device) -> Image.Image:
    """One row per text: its image, and the image under the Grad-CAM of the matching score with the annotated box, if any."""
    shown = slice(examples.num_shown)
    images, ids, mask = (part[shown].to(device) for part in (examples.images, examples.token_ids, examples.token_mask))
    with torch.no_grad():
        image_embeds, text_embeds = task.model.encode_image(images), task.model.encode_text(ids, mask)
    cam = itm_gradcam(task.model, task.itm_head, image_embeds, text_embeds, mask)
    rows = []
    for number, (text, heat) in enumerate(zip(examples.texts, cam.sentence.float().cpu(), strict=False)):
        image = to_pil_image(examples.images[number])
        boxes = [] if examples.boxes is None else [_corners(examples.boxes[number], image)]
        rows.append((f"{text} ({float(cam.scores[number]):.2f})", [(image, False), (overlay(image, heat, boxes), False)]))
    return _table(rows)


def _table(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, bool]]]]) -> Image.Image:
    """A sheet with one row per text and its images at one height; marked images are outlined."""
    widths = [sum(_width(image) + 6 for image, _ in cells) for _, cells in rows]
    sheet = Image.new("RGB", (_TEXT + max(widths, default=0), max(1, len(rows)) * (_SIDE + 6)), "white")
    canvas = ImageDraw.Draw(sheet)
    for number, (text, cells) in enumerate(rows):
        top, left = number * (_SIDE + 6) + 3, _TEXT
        canvas.multiline_text((4, top), "\n".join(textwrap.wrap(text, 26)[:8]), fill="black")
        for image, marked in cells:
            sheet.paste(image.resize((_width(image), _SIDE)), (left + 3, top))
            if marked:
                canvas.rectangle((left + 1, top - 2, left + _width(image) + 4, top + _SIDE + 1), outline=_RIGHT, width=3)
            left += _width(image) + 6
    return sheet


def _width(image: Image.Image) -> int:
    return round(_SIDE * image.width / image.height)


def _share(box: Box, width: int, height: int) -> Box:
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _corners(box: Box, image: Image.Image) -> tuple[float, float, float, float]:
    left, top = box[0] * image.width, box[1] * image.height
    return left, top, left + box[2] * image.width, top + box[3] * image.height
