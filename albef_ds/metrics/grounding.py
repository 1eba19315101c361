"""Weakly supervised grounding: Grad-CAM of the matching score picks a box (paper section 5, RefCOCO+).

With a detector's proposals, the box with the most heat for its size is chosen. Always measured are the box around the hottest
region and whether the hottest point is inside the right box. A box is right at an intersection over union of 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from albef_ds.data.annotations.records import Box, ExpressionRecord
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.metrics.boxes import RIGHT_IOU, hottest_region, iou, score_boxes, upscale
from albef_ds.metrics.over_ranks import eval_mode, map_rows
from albef_ds.metrics.scores import EvaluationOptions, Scores
from albef_ds.models.albef import ALBEF
from albef_ds.models.gradcam import itm_gradcam, middle_layer


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes found for one expression."""

    from_proposals: Box | None
    """The chosen proposal; None without proposals."""
    region: Box
    """Box around the hottest patches, in pixels."""
    peak: tuple[float, float]
    """Centre of the hottest patch, (x, y) in pixels."""


def evaluate_grounding(
    albef: ALBEF,
    itm_head: nn.Module,
    data: TextImageSet[ExpressionRecord],
    batch_size: int,
    device: torch.device,
    options: EvaluationOptions,
) -> Scores:
    """Grounds every expression, on ranks that hold whole parameters (not ZeRO-3); predictions are the `FoundBoxes` of each.

    Metrics per split, in per cent: `SPLIT_accuracy` from proposals, `_region`, `_pointing`, `_chance`; `_num` counts expressions.
    """
    layer = middle_layer(albef) if options.layer is None else options.layer

    def compute(rows: Tensor) -> tuple[Tensor, ...]:
        batch = data.batch(rows.tolist()).to(device)
        with torch.no_grad():
            images, texts = albef.encode_image(batch.images), albef.encode_text(batch.token_ids, batch.token_mask)
        return (itm_gradcam(albef, itm_head, images, texts, batch.token_mask, layer).sentence.float(),)

    with eval_mode(albef, itm_head):
        [maps] = map_rows(len(data), batch_size, compute, device, partial(options.progress, "expressions"))
    found = [ground(heat, record) for heat, record in zip(maps.cpu(), data.records, strict=True)]
    metrics: dict[str, float] = {}
    for split in sorted({record.split for record in data.records}):
        chosen = [pair for pair in zip(data.records, found, strict=True) if pair[0].split == split]
        metrics |= {f"grounding/{split}_{name}": value for name, value in _measured(chosen)}
    return Scores(metrics, [vars(boxes) for boxes in found], {"layer": layer})


def _measured(chosen: Sequence[tuple[ExpressionRecord, FoundBoxes]]) -> Iterator[tuple[str, float]]:
    offered = [(record, found.from_proposals) for record, found in chosen if found.from_proposals is not None]
    if offered:
        yield "accuracy", _percent(iou(record.box, box) >= RIGHT_IOU for record, box in offered)
        shares = [
            sum(iou(record.box, box) >= RIGHT_IOU for box in record.proposals) / len(record.proposals) for record, _ in offered
        ]
        yield "chance", _percent(shares)
    yield "region", _percent(iou(record.box, found.region) >= RIGHT_IOU for record, found in chosen)
    yield "pointing", _percent(_inside(found.peak, record.box) for record, found in chosen)
    yield "num", float(len(chosen))


def _percent(shares: Iterable[float]) -> float:
    values = list(shares)
    return 100.0 * sum(values) / len(values)


def ground(heat: Tensor, record: ExpressionRecord) -> FoundBoxes:
    """The boxes of one expression, from its map (h, w) over patches."""
    rows, columns = heat.shape
    across, down = record.width / columns, record.height / rows
    chosen: Box | None = None
    if record.proposals:
        scores = score_boxes(upscale(heat, record.width, record.height), record.proposals)
        chosen = record.proposals[int(scores.argmax())]
    left, top, width, height = hottest_region(heat)
    row, column = divmod(int(heat.argmax()), columns)
    region = (left * across, top * down, width * across, height * down)
    return FoundBoxes(chosen, region, ((column + 0.5) * across, (row + 0.5) * down))


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[0] + box[2] and box[1] <= point[1] <= box[1] + box[3]
