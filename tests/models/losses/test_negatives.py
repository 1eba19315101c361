"""Noise depends on the sampled pair only, and negatives are never positives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from albef_ds.models.losses.negatives import gumbel, hashed_uniform, sample_negatives


def _chi_square(counts: Tensor, probabilities: Tensor) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected).square() / expected).sum())


def _noise(draws: int, columns: int, seed: int = 0) -> Tensor:
    return gumbel(hashed_uniform(seed, torch.arange(draws)[:, None], torch.arange(columns)[None, :]))


def test_hashed_numbers_are_uniform_and_differ_by_every_key() -> None:
    rows, columns = torch.arange(300)[:, None], torch.arange(200)[None, :]
    uniform = hashed_uniform(0, rows, columns)
    assert float(uniform.min()) > 0.0 and float(uniform.max()) < 1.0
    counts = torch.histc(uniform, 64, 0.0, 1.0)
    # chi-square with 63 degrees of freedom: mean 63, standard deviation 11.2.
    assert _chi_square(counts, torch.full((64,), 1 / 64, dtype=torch.float64)) < 63 + 5 * 11.2
    for a, b in ((uniform[1:], uniform[:-1]), (uniform[:, 1:], uniform[:, :-1]), (uniform, hashed_uniform(1, rows, columns))):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        # Standard deviation of a correlation over 60,000 pairs: 0.004.
        assert abs(float(correlation)) < 0.02


def test_a_plain_number_is_the_key_that_a_tensor_of_it_is() -> None:
    rows = torch.arange(50)
    for number in (0, 7, -3, 2**40):
        assert torch.equal(hashed_uniform(5, rows, number), hashed_uniform(5, rows, torch.tensor(number)))
        assert torch.equal(hashed_uniform(5, number, rows), hashed_uniform(5, torch.tensor(number), rows))


def test_positions_beyond_32_bits_are_told_apart() -> None:
    low = torch.arange(1000)
    assert not bool((hashed_uniform(0, low) == hashed_uniform(0, low + 2**32)).any())


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, -1])
def test_any_seed_and_extreme_keys_stay_in_the_open_interval(seed: int) -> None:
    keys = torch.tensor([0, 1, -1, 2**31, 2**32 - 1, 2**62, -(2**63), 2**63 - 1])
    uniform = hashed_uniform(seed, keys)
    assert bool(((uniform > 0) & (uniform < 1)).all()) and bool(torch.isfinite(gumbel(uniform)).all())


def test_negatives_follow_the_softmax_over_what_is_allowed() -> None:
    logits = torch.tensor([0.0, 1.5, -1.0, 9.0, 0.7, 2.0], dtype=torch.float64)
    allowed = torch.tensor([True, True, True, False, True, True])
    draws = 20_000
    own = torch.zeros(draws, dtype=torch.int64)
    chosen = sample_negatives(logits.expand(draws, -1), allowed.expand(draws, -1), own, _noise(draws, 6))
    expected = torch.softmax(logits[[1, 2, 4, 5]], dim=0)
    counts = torch.bincount(chosen, minlength=6)
    assert int(counts[0]) == 0 and int(counts[3]) == 0
    # chi-square with 3 degrees of freedom: 1e-6 of the mass lies above 30.7.
    assert _chi_square(counts[[1, 2, 4, 5]].double(), expected) < 30.7


def test_without_noise_the_hardest_allowed_is_taken() -> None:
    logits = torch.tensor([[9.0, 3.0, 8.0, 1.0], [9.0, 3.0, 8.0, 1.0]])
    allowed = torch.tensor([[True, True, True, True], [True, True, False, True]])
    assert sample_negatives(logits, allowed, torch.tensor([0, 0])).tolist() == [2, 1]


def test_a_row_without_any_allowed_candidate_draws_uniformly_but_never_itself() -> None:
    draws = 6_000
    logits = torch.tensor([50.0, 900.0, -900.0, 3.0]).expand(draws, -1)
    allowed = torch.zeros(draws, 4, dtype=torch.bool)
    chosen = sample_negatives(logits, allowed, torch.full((draws,), 2), _noise(draws, 4))
    counts = torch.bincount(chosen, minlength=4).double()
    assert int(counts[2]) == 0
    assert _chi_square(counts[[0, 1, 3]], torch.full((3,), 1 / 3, dtype=torch.float64)) < 27.7


@pytest.mark.parametrize(
    "row",
    [
        [math.nan] * 4,
        [math.inf] * 4,
        [-math.inf] * 4,
        [math.inf, -math.inf, math.nan, 0.0],
        [0.0, -math.inf, -math.inf, -math.inf],
        [1e38, -1e38, -1e38, -1e38],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_number_makes_it_fail_or_draw_what_is_not_allowed(row: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor([row] * 4, dtype=dtype)
    own = torch.arange(4)
    allowed = torch.ones(4, 4, dtype=torch.bool).fill_diagonal_(False)
    allowed[0, 1] = allowed[1, 0] = False
    for seed in range(20):
        chosen = sample_negatives(logits, allowed, own, _noise(4, 4, seed))
        assert bool(allowed[torch.arange(4), chosen].all())


def test_underflowing_mass_still_draws() -> None:
    # The released sampler zeroes the own pair after the softmax: nothing is left of these rows in fp32.
    logits = torch.tensor([[1000.0, 0.0, 0.0]]).expand(3000, -1)
    allowed = torch.tensor([False, True, True]).expand(3000, -1)
    counts = torch.bincount(sample_negatives(logits, allowed, torch.zeros(3000, dtype=torch.int64), _noise(3000, 3)), minlength=3)
    assert int(counts[0]) == 0 and abs(int(counts[1]) - 1500) < 5 * 27
