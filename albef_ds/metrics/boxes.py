"""Turns a heat map into a box: ranks proposals, or finds the hottest region. Knows no model."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.data.annotations.records import Box

AREA_POWER = 0.5
"""A proposal's heat is divided by its area to this power (paper's released code)."""
THRESHOLD = 0.5
"""Without proposals: smallest value of a patch in the region, as a share of the highest value."""
RIGHT_IOU = 0.5
"""Smallest intersection over union of a right box."""


def upscale(heat: Tensor, width: int, height: int) -> Tensor:
    """Map (h, w) over patches -> (height, width) over pixels, bicubic as in the released evaluation."""
    return F.interpolate(heat[None, None].float(), size=(height, width), mode="bicubic")[0, 0]


def score_boxes(heat: Tensor, boxes: Sequence[Box], area_power: float = AREA_POWER) -> Tensor:
    """Heat inside each box divided by area ** `area_power`, (len(boxes),); `heat` is (height, width) over pixels."""
    scores = []
    for left, top, width, height in boxes:
        inside = heat[int(top) : int(top + height), int(left) : int(left + width)]
        scores.append(inside.sum() / max(width * height, 1.0) ** area_power)
    return torch.stack(scores)


def hottest_region(heat: Tensor, threshold: float = THRESHOLD) -> Box:
    """The box (left, top, width, height, in patches) around the region of the hottest patch of `heat` (h, w).

    The region holds the patches of at least `threshold` times the highest value that connect to it over sides.
    """
    rows, columns = heat.shape
    limit, start = float(heat.max()) * threshold, divmod(int(heat.argmax()), columns)
    seen, queue = {start}, deque([start])
    while queue:
        row, column = queue.popleft()
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < rows and 0 <= near[1] < columns and near not in seen and float(heat[near]) >= limit:
                seen.add(near)
                queue.append(near)
    top, left = min(row for row, _ in seen), min(column for _, column in seen)
    bottom, right = max(row for row, _ in seen), max(column for _, column in seen)
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    union = one[2] * one[3] + other[2] * other[3] - common
    return common / union if union > 0 else 0.0
