"""The AdamW that spares the compiler's import computes what torch's computes, and its state is exchanged with torch's."""

from __future__ import annotations

import pytest
import torch

from albef_ds.engine.adamw import AdamW


@pytest.mark.parametrize("fused", [True, False])
def test_steps_and_state_are_torchs(fused: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(7, 5, generator=generator), torch.randn(5, generator=generator)]
    gradients = [[torch.randn(p.shape, generator=generator) for p in start] for _ in range(6)]
    results = []
    for kind, other in ((torch.optim.AdamW, AdamW), (AdamW, torch.optim.AdamW)):
        parameters = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = kind(parameters[:1], lr=0.01, weight_decay=0.1, fused=fused)
        optimizer.add_param_group({"params": parameters[1:], "weight_decay": 0.0})
        for number, step in enumerate(gradients):
            optimizer.zero_grad()
            assert all(parameter.grad is None for parameter in parameters)
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
            if number == 2:  # the other one takes over
                state = optimizer.state_dict()
                optimizer = other([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=0.5, fused=fused)
                optimizer.load_state_dict(state)
        assert not any(parameter.grad_fn for parameter in parameters)
        results.append(parameters)
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)


def test_a_closure_is_called_with_gradients() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([parameter], lr=0.1, fused=True)

    def loss() -> torch.Tensor:
        value = (parameter**2).sum()
        value.backward()
        return value

    assert optimizer.step(loss) == 3 and bool((parameter < 1).all())
