"""The loss by slices of columns equals the plain form, gradients included, and keeps no row of logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.kernels.soft_cross_entropy import FeatureTeacher, LogitTeacher, Positives, soft_cross_entropy
from albef_ds.losses.contrastive import contrastive_loss
from albef_ds.losses.distillation import distilled_cross_entropy

ROWS, WIDTH, TOTAL = 5, 8, 77


def _tensor(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _gradients(loss: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("columns", [7, 16, 77, 500])
def test_contrast_against_a_queue_equals_the_plain_form_in_fp64(alpha: float, columns: int) -> None:
    x, teacher = F.normalize(_tensor(ROWS, WIDTH, seed=0), dim=1), F.normalize(_tensor(ROWS, WIDTH, seed=1), dim=1)
    keys = F.normalize(_tensor(TOTAL, WIDTH, seed=2), dim=1)
    mask = torch.zeros(ROWS, TOTAL, dtype=torch.bool)
    mask[torch.arange(ROWS), torch.arange(ROWS)] = True
    mask[2, 60] = mask[2, 76] = True  # several positives, the last column among them
    temperature = torch.full((1,), 0.07, dtype=torch.float64)

    def plain(x: Tensor, temperature: Tensor) -> Tensor:
        return contrastive_loss(x, teacher, keys, mask, temperature, alpha)[0]

    def sliced(x: Tensor, temperature: Tensor) -> Tensor:
        guide = FeatureTeacher(teacher) if alpha else None
        return soft_cross_entropy(x, keys, None, 1.0 / temperature, Positives(mask), guide, alpha, columns).mean()

    expected, expected_gradients = _gradients(plain, [x, temperature])
    value, gradients = _gradients(sliced, [x, temperature])
    assert torch.allclose(value, expected, rtol=1e-12)
    for own, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_words_over_a_vocabulary_equal_the_plain_form_with_gradients_of_matrix_and_bias(alpha: float) -> None:
    hidden, weight, bias = _tensor(ROWS, WIDTH, seed=0), _tensor(TOTAL, WIDTH, seed=1), _tensor(TOTAL, seed=2)
    labels = torch.tensor([0, 76, 3, 3, 40])
    teacher = _tensor(ROWS, TOTAL, seed=3) if alpha else None
    rates = _tensor(ROWS, seed=4)  # an uneven gradient per row

    def plain(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (distilled_cross_entropy(hidden @ weight.T + bias, labels, teacher, alpha) * rates).sum()

    def sliced(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        guide = None if teacher is None else LogitTeacher(teacher)
        one = torch.ones(1, dtype=torch.float64)
        return (soft_cross_entropy(hidden, weight, bias, one, Positives(labels=labels), guide, alpha, 10) * rates).sum()

    expected, expected_gradients = _gradients(plain, [hidden, weight, bias])
    value, gradients = _gradients(sliced, [hidden, weight, bias])
    assert torch.allclose(value, expected, rtol=1e-12)
    for own, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-13)


def test_logits_far_from_zero_do_not_overflow() -> None:
    x, keys = 100 * _tensor(ROWS, WIDTH, seed=0, dtype=torch.float32), _tensor(TOTAL, WIDTH, seed=1, dtype=torch.float32)
    labels = torch.arange(ROWS)
    value = soft_cross_entropy(x, keys, None, torch.full((1,), 50.0), Positives(labels=labels), None, 0.0, 9)
    expected = F.cross_entropy(x @ keys.T * 50.0, labels, reduction="none")
    assert bool(torch.isfinite(value).all()) and torch.allclose(value, expected, rtol=1e-5)


def test_no_tensor_as_wide_as_the_queue_is_kept_for_backward() -> None:
    x, keys = _tensor(ROWS, WIDTH, seed=0).requires_grad_(), _tensor(TOTAL, WIDTH, seed=1)
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        one = torch.ones(1, dtype=torch.float64)
        soft_cross_entropy(x, keys, None, one, Positives(labels=torch.arange(ROWS)), FeatureTeacher(x.detach()), 0.4, 7)
    assert (TOTAL, WIDTH) in kept, "the queue itself is kept, as it is alive anyway"
    assert (ROWS, TOTAL) not in kept
