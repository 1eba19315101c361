"""The loss by slices of columns and its gradients equal the plain form's, and no full row of logits is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.models.losses.contrastive import contrastive_loss
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.models.losses.sliced import TRITON, soft_cross_entropy
from albef_ds.models.losses.sliced_problem import FeatureTeacher, LogitTeacher, Positives

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
        given = FeatureTeacher(teacher) if alpha else None
        return soft_cross_entropy(x, keys, None, 1.0 / temperature, Positives(mask), given, alpha, columns).mean()

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
        given = None if teacher is None else LogitTeacher(teacher)
        one = torch.ones(1, dtype=torch.float64)
        return (soft_cross_entropy(hidden, weight, bias, one, Positives(labels=labels), given, alpha, 10) * rates).sum()

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


def test_words_that_cannot_be_said_fill_whole_slices() -> None:
    hidden, weight, bias = _tensor(ROWS, WIDTH, seed=0), _tensor(TOTAL, WIDTH, seed=1), _tensor(TOTAL, seed=2)
    bias[:20] = bias[70:] = -torch.inf
    labels, one = torch.arange(20, 20 + ROWS), torch.ones(1, dtype=torch.float64)

    def plain(hidden: Tensor) -> Tensor:
        return F.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")

    def sliced(hidden: Tensor) -> Tensor:
        return soft_cross_entropy(hidden, weight, bias, one, Positives(labels=labels), None, 0.0, 10).sum()

    expected, [expected_gradient] = _gradients(plain, [hidden])
    value, [gradient] = _gradients(sliced, [hidden])
    assert torch.allclose(value, expected, rtol=1e-12)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-13)


def test_a_scale_of_zero_has_the_plain_forms_gradient() -> None:
    x, keys, zero = _tensor(ROWS, WIDTH, seed=0), _tensor(TOTAL, WIDTH, seed=1), torch.zeros(1, dtype=torch.float64)
    labels = torch.arange(ROWS)

    def sliced(x: Tensor, scale: Tensor) -> Tensor:
        return soft_cross_entropy(x, keys, None, scale, Positives(labels=labels), None, 0.0, 9).sum()

    _, expected = _gradients(lambda x, scale: F.cross_entropy(x @ keys.T * scale, labels, reduction="sum"), [x, zero])
    _, found = _gradients(sliced, [x, zero])
    assert expected[1].abs() > 0.1
    for own, other in zip(found, expected, strict=True):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-13)


def test_the_backward_pass_computes_in_the_precision_of_the_forward_pass() -> None:
    x, keys = _tensor(ROWS, WIDTH, seed=0, dtype=torch.float32), _tensor(TOTAL, WIDTH, seed=1, dtype=torch.float32)

    def gradients(forward: bool, backward: bool) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), torch.zeros(TOTAL, requires_grad=True), torch.full((1,), 9.0, requires_grad=True)]
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            loss = soft_cross_entropy(leaves[0], keys, *leaves[1:], Positives(labels=torch.arange(ROWS)), None, 0.0, 9).sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            return list(torch.autograd.grad(loss, leaves))

    for forward in (False, True):
        outside, inside = gradients(forward, False), gradients(forward, True)
        assert all(torch.equal(own, other) for own, other in zip(outside, inside, strict=True))
        # Softmax less target sums to nothing where the logits are those that the sum of exponentials was of.
        assert abs(float(outside[1].sum())) < 1e-5
    assert not torch.equal(gradients(True, True)[0], gradients(False, False)[0])


def test_what_the_backward_pass_reads_must_not_change_before_it() -> None:
    x, teacher = _tensor(ROWS, WIDTH, seed=0).requires_grad_(), _tensor(ROWS, TOTAL, seed=3)
    one, labels = torch.ones(1, dtype=torch.float64), Positives(labels=torch.arange(ROWS))
    loss = soft_cross_entropy(x, _tensor(TOTAL, WIDTH, seed=1), None, one, labels, LogitTeacher(teacher), 0.4, 9).sum()
    teacher.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_triton_refuses_double_precision() -> None:
    x, one = _tensor(ROWS, WIDTH, seed=0), torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="use TorchForm"):
        soft_cross_entropy(x, x, None, one, Positives(labels=torch.arange(ROWS)), None, 0.0, form=TRITON)
