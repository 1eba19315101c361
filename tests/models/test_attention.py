"""The two implementations of attention agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef_ds.models.attention import attend, merge_heads, split_heads, uses_sdpa


def _inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 4, generator=generator).to(dtype).requires_grad_() for length in (5, 6, 6)]


@pytest.mark.parametrize("masked", [False, True])
def test_both_forms_have_equal_outputs_and_gradients(masked: bool) -> None:
    mask = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    mask[0, :, :, 4:] = False
    mask[1, :, 2, 1:] = False
    results = []
    for implementation in ("sdpa", "plain"):
        inputs = _inputs()
        output = attend(*inputs, mask if masked else None, implementation=implementation)
        output.square().sum().backward()
        results.append([output, *(x.grad for x in inputs)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", ["sdpa", "plain"])
def test_a_masked_key_has_no_influence(implementation: str) -> None:
    query, key, value = _inputs()
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[..., 5] = False
    before = attend(query, key, value, mask, implementation=implementation)
    with torch.no_grad():
        key[:, :, 5], value[:, :, 5] = 1e3, -1e3
    after = attend(query, key, value, mask, implementation=implementation)
    assert torch.equal(before, after)


@pytest.mark.parametrize("implementation", ["sdpa", "plain"])
def test_dropped_weights_are_scaled_up(implementation: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 20_000, 4), torch.ones(1, 1, 20_000, 4)
    output = attend(query, key, value, None, dropout=0.25, implementation=implementation)
    # 20,000 weights: the mean has a standard deviation of 0.004.
    assert abs(float(output.mean()) - 1.0) < 0.02 and float(output.mean()) != 1.0


def test_low_precision_stays_low_and_close() -> None:
    exact = attend(*_inputs(), None, implementation="plain")
    for implementation in ("sdpa", "plain"):
        output = attend(*_inputs(torch.bfloat16), None, implementation=implementation)
        assert output.dtype == torch.bfloat16
        # bf16 inputs alone are off by 2^-9 relative.
        torch.testing.assert_close(output.double(), exact, rtol=0, atol=0.03)


def test_the_setting_is_followed_on_every_device() -> None:
    for device in ("cpu", "meta"):
        query = torch.zeros(1, device=device)
        assert uses_sdpa("sdpa", query, 12) and not uses_sdpa("plain", query, 1000)


def test_auto_follows_the_measured_table() -> None:
    assert uses_sdpa("auto", torch.zeros(1, device="meta", requires_grad=True), 12), "not a CPU: always fused"
    wanted = torch.zeros(1, requires_grad=True)
    assert not uses_sdpa("auto", wanted, 257) and not uses_sdpa("auto", wanted.bfloat16(), 257)
    for num_keys, single, half in ((12, False, True), (37, False, True), (257, True, True)):
        assert uses_sdpa("auto", torch.zeros(1), num_keys) == single
        assert uses_sdpa("auto", torch.zeros(1).bfloat16(), num_keys) == half
    with torch.no_grad():
        assert uses_sdpa("auto", wanted * 1.0, 257), "the momentum model's queries want no gradient"


def test_heads_are_split_and_merged_without_mixing() -> None:
    x = torch.arange(24.0).reshape(1, 4, 6)
    heads = split_heads(x, 2)
    assert heads.shape == (1, 2, 4, 3) and torch.equal(heads[0, 1], x[0, :, 3:])
    assert torch.equal(merge_heads(heads), x)
