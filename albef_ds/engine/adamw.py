"""torch's AdamW without the import of torch's compiler, which it would wait for at its construction and at its first step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function below the decorators that hide it from the compiler, which import the compiler (`torch._dynamo`) to do so."""
    plain: Callable[..., Any] = inspect.unwrap(function)
    return plain


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` for a step that is not compiled and not differentiated: the same arithmetic, state and interface."""

    step = torch.no_grad()(_plain(torch.optim.AdamW.step))
    zero_grad = _plain(torch.optim.AdamW.zero_grad)
    add_param_group = _plain(torch.optim.AdamW.add_param_group)
    state_dict = _plain(torch.optim.AdamW.state_dict)
    load_state_dict = _plain(torch.optim.AdamW.load_state_dict)
