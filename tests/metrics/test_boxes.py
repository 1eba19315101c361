"""Boxes found in heat maps."""

from __future__ import annotations

import pytest
import torch

from albef_ds.data.annotations.records import ExpressionRecord
from albef_ds.metrics.boxes import hottest_region, iou, score_boxes, upscale
from albef_ds.metrics.classification import accuracy, consistency
from albef_ds.metrics.grounding import ground


def hot(row: int, column: int) -> torch.Tensor:
    heat = torch.zeros(4, 4)
    heat[row, column] = 1.0
    return heat


def test_the_box_with_most_heat_for_its_size_wins() -> None:
    heat = upscale(hot(0, 0), 64, 64)
    near, far, all_of_it = (0.0, 0.0, 16.0, 16.0), (40.0, 40.0, 16.0, 16.0), (0.0, 0.0, 64.0, 64.0)
    scores = score_boxes(heat, [far, near, all_of_it])
    assert scores.argmax() == 1
    # Without the division by the area the largest box would win or tie.
    assert score_boxes(heat.clamp(min=0), [far, near, all_of_it], area_power=0.0).argmax() == 2


def test_the_region_is_connected_at_sides_and_holds_the_peak() -> None:
    heat = torch.tensor([[0.9, 0.6, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.8, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert hottest_region(heat) == (0.0, 0.0, 2.0, 2.0)


def test_intersection_over_union() -> None:
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1.0
    assert iou((0, 0, 2, 2), (1, 0, 2, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 2, 2), (5, 5, 2, 2)) == 0.0


def test_an_expression_without_proposals_still_gets_a_region_in_pixels() -> None:
    record = ExpressionRecord("a.png", "the cat", 1, (32.0, 0.0, 32.0, 16.0), (), 128, 64, "val")
    found = ground(hot(0, 1), record)
    assert found.from_proposals is None
    assert found.region == (32.0, 0.0, 32.0, 16.0) and found.peak == (48.0, 8.0)


def test_consistency_asks_for_every_statement_of_a_group() -> None:
    predictions, labels, groups = [1, 0, 1, 1], [1, 0, 0, 1], ["a", "a", "b", "b"]
    assert accuracy(predictions, labels) == 75.0
    assert consistency(predictions, labels, groups) == 50.0
