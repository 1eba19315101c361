"""The contrastive loss compared with its explicit formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.models.losses.contrastive import contrastive_loss, mixed_targets, soft_cross_entropy


def _features(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 5, generator=generator, dtype=torch.float64), dim=1)


POSITIVES = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 1]]).bool()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_targets_are_a_mixture_whose_rows_sum_to_one(alpha: float) -> None:
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = mixed_targets(logits, POSITIVES, alpha)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(3, dtype=torch.float64))
    # Several positives share the mass evenly.
    hard = torch.tensor([[0.5, 0, 0, 0.5, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1 / 3, 1 / 3, 0, 0, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(targets, alpha * torch.softmax(logits, 1) + (1 - alpha) * hard)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_loss_is_equation_six(alpha: float) -> None:
    student, momentum, keys, temperature = _features(3, 1), _features(3, 2), _features(6, 3), 0.2
    loss, logits = contrastive_loss(student, momentum, keys, POSITIVES, torch.tensor([temperature], dtype=torch.float64), alpha)
    expected = 0.0
    for row in range(3):
        scores = [float(student[row] @ key) / temperature for key in keys]
        teacher = [math.exp(float(momentum[row] @ key) / temperature) for key in keys]
        total = math.log(sum(math.exp(score) for score in scores))
        for column in range(6):
            hard = float(POSITIVES[row, column]) / float(POSITIVES[row].sum())
            expected -= (alpha * teacher[column] / sum(teacher) + (1 - alpha) * hard) * (scores[column] - total) / 3
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(logits, student @ keys.T / temperature)


def test_gradients_reach_features_and_temperature_but_no_momentum_feature() -> None:
    student, momentum, keys = (_features(*shape).requires_grad_() for shape in ((3, 1), (3, 2), (6, 3)))
    temperature = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)

    def loss(features: Tensor, temperature: Tensor) -> Tensor:
        # The pseudo-targets are constants, in the temperature too.
        targets = mixed_targets(momentum @ keys.T / 0.2, POSITIVES, 0.4).detach()
        return soft_cross_entropy(features @ keys.detach().T / temperature, targets)

    contrastive_loss(student, momentum, keys.detach(), POSITIVES, temperature, 0.4)[0].backward()
    expected = torch.autograd.grad(loss(student, temperature), (student, temperature))
    assert student.grad is not None and temperature.grad is not None and momentum.grad is None
    torch.testing.assert_close((student.grad, temperature.grad), expected)
    step = 1e-6
    slope = (loss(student, temperature + step) - loss(student, temperature - step)) / (2 * step)
    assert float(temperature.grad) == pytest.approx(float(slope.detach()), rel=1e-6)


def test_similarities_stay_in_single_precision_under_autocast() -> None:
    student, momentum, keys = (_features(rows, rows) for rows in (3, 3, 6))
    temperature = torch.tensor([0.01])
    exact, _ = contrastive_loss(student, momentum, keys, POSITIVES, temperature.double(), 0.4)
    with torch.autocast("cpu", torch.bfloat16):
        cast, logits = contrastive_loss(student.float(), momentum.float(), keys.float(), POSITIVES, temperature, 0.4)
    assert logits.dtype == torch.float32
    # In bf16 it is off by 1e-2.
    torch.testing.assert_close(cast.double(), exact, rtol=1e-5, atol=0)
