"""Weakly supervised grounding: Grad-CAM of the matching score picks a box (paper section 5, RefCOCO+).

With a detector's proposals the box with the most heat for its size is taken; without, the box around the hottest region,
and whether the hottest point lies in the right box. A box is right at an intersection over union of 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albef_ds.common.progress import Progress, silent
from albef_ds.data.annotations.records import Box, ExpressionRecord
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.metrics.boxes import RIGHT_IOU, hottest_region, iou, score_boxes, upscale
from albef_ds.metrics.over_ranks import deal, eval_mode
from albef_ds.models.albef import ALBEF
from albef_ds.models.gradcam import itm_gradcam, middle_layer


@dataclass(frozen=True)
class Grounding:
    """What was found for one expression."""

    from_proposals: Box | None
    """The chosen proposal; None without proposals."""
    region: Box
    """Around the hottest patches, in pixels."""
    peak: tuple[float, float]
    """The middle of the hottest patch, (x, y) in pixels."""


class GroundingEvaluator:
    """Grounds every expression; all ranks construct and run it together, each with whole parameters (not ZeRO-3).

    Args:
        albef: the model, student or momentum copy; on `device`.
        itm_head: linear head over the multimodal [CLS].
        data: expressions, the same on every rank.
        device: where to compute.
        layer: multimodal layer whose cross-attention is read, from 0; None: the middle one.
        batch_size: expressions per forward pass.
        prefix: first part of the metrics' names.
        progress: told about every batch.
    """

    def __init__(
        self,
        albef: ALBEF,
        itm_head: nn.Module,
        data: TextImageSet[ExpressionRecord],
        device: torch.device,
        *,
        layer: int | None = None,
        batch_size: int = 32,
        prefix: str = "grounding",
        progress: Progress | None = None,
    ) -> None:
        self.albef, self.itm_head, self.data, self.device = albef, itm_head, data, device
        self.layer = middle_layer(albef) if layer is None else layer
        self.batch_size, self.prefix = batch_size, prefix
        self._progress = progress or silent
        self.found: list[Grounding] = []
        """What was found for each expression, after `run`."""

    def heat(self) -> Tensor:
        """Maps over patches of all expressions, float32 (N, h, w)."""

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            batch = self.data.batch(rows.tolist()).to(self.device)
            with torch.no_grad():
                images = self.albef.encode_image(batch.images)
                texts = self.albef.encode_text(batch.token_ids, batch.token_mask)
            cam = itm_gradcam(self.albef, self.itm_head, images, texts, batch.token_mask, self.layer)
            return (cam.sentence.float(),)

        with eval_mode(self.albef, self.itm_head):
            [maps] = deal(
                len(self.data),
                self.batch_size,
                compute,
                self.device,
                lambda done, total: self._progress("expressions", done, total),
            )
        return maps

    def run(self) -> Iterator[tuple[str, float]]:
        """(name, per cent) by split: `SPLIT_accuracy` from proposals, `_region`, `_pointing`, chance, and the number of each."""
        records = self.data.records
        self.found = [ground(heat, record) for heat, record in zip(self.heat().cpu(), records, strict=True)]
        for split in sorted({record.split for record in records}):
            chosen = [(record, found) for record, found in zip(records, self.found, strict=True) if record.split == split]
            offered = [(record, found) for record, found in chosen if found.from_proposals is not None]
            if offered:
                right = [iou(record.box, found.from_proposals or record.box) >= RIGHT_IOU for record, found in offered]
                yield f"{self.prefix}/{split}_accuracy", 100.0 * sum(right) / len(right)
                chances = [
                    sum(iou(record.box, box) >= RIGHT_IOU for box in record.proposals) / len(record.proposals)
                    for record, _ in offered
                ]
                yield f"{self.prefix}/{split}_chance", 100.0 * sum(chances) / len(chances)
            region = [iou(record.box, found.region) >= RIGHT_IOU for record, found in chosen]
            yield f"{self.prefix}/{split}_region", 100.0 * sum(region) / len(region)
            yield f"{self.prefix}/{split}_pointing", 100.0 * sum(_inside(f.peak, r.box) for r, f in chosen) / len(chosen)
            yield f"{self.prefix}/{split}_num", float(len(chosen))


def ground(heat: Tensor, record: ExpressionRecord) -> Grounding:
    """Boxes of one expression from its map (h, w) over patches."""
    rows, columns = heat.shape
    across, down = record.width / columns, record.height / rows
    chosen: Box | None = None
    if record.proposals:
        scores = score_boxes(upscale(heat, record.width, record.height), record.proposals)
        chosen = record.proposals[int(scores.argmax())]
    left, top, width, height = hottest_region(heat)
    row, column = divmod(int(heat.argmax()), columns)
    region = (left * across, top * down, width * across, height * down)
    return Grounding(chosen, region, ((column + 0.5) * across, (row + 0.5) * down))


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[0] + box[2] and box[1] <= point[1] <= box[1] + box[3]
