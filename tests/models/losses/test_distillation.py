"""The masked-language-modelling loss compared with its formula."""

from __future__ import annotations

import pytest
import torch

from albef_ds.models.losses.distillation import distilled_cross_entropy


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_loss_is_a_sum_over_tokens_mixed_by_alpha(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, momentum = (torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([3, 0, 8, 3])
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(4):
        log_probs = logits[row] - logits[row].exp().sum().log()
        soft = momentum[row].exp() / momentum[row].exp().sum()
        expected = expected - (1 - alpha) * log_probs[labels[row]] - alpha * (soft * log_probs).sum()
    torch.testing.assert_close(distilled_cross_entropy(logits, labels, momentum, alpha).sum(), expected)


def test_pseudo_targets_are_constants() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    momentum = torch.randn(2, 5, requires_grad=True)
    distilled_cross_entropy(logits, torch.tensor([1, 2]), momentum, 0.4).sum().backward()
    assert logits.grad is not None and momentum.grad is None


def test_without_a_momentum_model_it_is_the_cross_entropy() -> None:
    logits, labels = torch.randn(3, 5), torch.tensor([1, 2, 4])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(distilled_cross_entropy(logits, labels, None, 0.4).sum(), expected)


def test_no_masked_token_is_a_loss_of_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = distilled_cross_entropy(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5), 0.4).sum()
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_low_precision_logits_are_summed_in_single_precision() -> None:
    logits = torch.randn(3, 1000).bfloat16()
    labels = torch.tensor([1, 2, 4])
    loss = distilled_cross_entropy(logits, labels, logits, 0.4).sum()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distilled_cross_entropy(logits.float(), labels, logits.float(), 0.4).sum())
