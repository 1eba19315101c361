"""Compares ranks, recall and chance with their definitions; ties and NaN count against the model."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from albef_ds.metrics.ranking import DirectionScores, chance, ranks, recall


def test_rank_counts_wrong_candidates_not_below_the_best_right_one() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.7], [0.1, 0.2, 0.3]])
    right = torch.tensor([[False, True, True], [True, False, False]])
    assert ranks(scores, right).tolist() == [1, 2]


def test_ties_count_against_the_model() -> None:
    scores = torch.full((4, 10), 0.5)
    right = torch.eye(4, 10, dtype=torch.bool)
    assert ranks(scores, right).tolist() == [9] * 4
    assert recall(ranks(scores, right), 5) == 0.0


def test_scores_a_rounding_apart_are_a_tie_only_within_the_tolerance() -> None:
    scores, right = torch.tensor([[0.5, 0.5 - 1e-7]]), torch.tensor([[True, False]])
    assert ranks(scores, right, tolerance=1e-6).tolist() == [1]
    assert ranks(scores, right).tolist() == [0]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_model_that_gives_no_numbers_has_no_recall(broken: float) -> None:
    scores, right = torch.full((3, 20), broken), torch.eye(3, 20, dtype=torch.bool)
    assert recall(ranks(scores, right, 1e-6), 10) == 0.0
    scores = torch.rand(3, 20)
    scores[:, 10] = float("nan")
    assert (ranks(scores, right, 1e-6) >= 1).all()


def test_recall_is_the_share_of_queries_hit_in_per_cent() -> None:
    assert recall(torch.tensor([0, 1, 4, 5]), 5) == 75.0


def test_chance_is_the_recall_of_random_orders() -> None:
    assert chance(torch.ones(300, dtype=torch.int64), 300, 1) == pytest.approx(100 / 300)
    assert chance(torch.tensor([2, 1]), 4, 3) == pytest.approx(100 * (1.0 + 0.75) / 2)
    assert chance(torch.tensor([1]), 4, 10) == 100.0
    draws = random.Random(0)
    hits = sum(min(draws.sample(range(50), 3)) < 5 for _ in range(20_000))
    assert chance(torch.tensor([3]), 50, 5) == pytest.approx(100 * hits / 20_000, abs=1.0)


def direction() -> DirectionScores:
    """Two queries, four candidates; the multimodal encoder has scored the first two of each."""
    return DirectionScores(
        similarity=torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.3, 0.1, 0.6, 0.5]]),
        query_image=torch.tensor([0, 1]),
        candidate_image=torch.tensor([2, 0, 0, 1]),
        temperature=0.1,
        shortlist=torch.tensor([[0, 1], [2, 3]]),
        margins=torch.tensor([[-1.0, 3.0], [0.0, -0.5]]),
    )


def test_reranking_orders_the_shortlist_and_leaves_the_rest_behind_it() -> None:
    assert direction().top("itc", 4).tolist() == [[0, 1, 3, 2], [2, 3, 0, 1]]
    assert direction().top("itm", 4).tolist() == [[1, 0, 3, 2], [2, 3, 0, 1]]
    assert direction().ranks("itc").tolist() == [1, 1]
    assert direction().ranks("itm").tolist() == [0, 1]


def test_itm_itc_adds_match_log_probability_and_scaled_similarity() -> None:
    scores = replace(direction(), temperature=0.05).scores("itm_itc")
    assert scores[0, 1].item() == pytest.approx(math.log(1 / (1 + math.exp(-3.0))) + 0.8 / 0.05, abs=1e-5)
    assert scores[0].argsort(descending=True).tolist() == [0, 1, 3, 2]


def test_shortlist_takes_wrong_candidates_first_at_a_tie() -> None:
    tied = DirectionScores(torch.zeros(3, 6), torch.arange(3), torch.arange(6), 0.1)
    assert not tied.right().gather(1, tied.nearest(5)).any()
