"""LayerNorm by apex's fused kernel where NVIDIA's apex is installed. Same parameters, same mathematics."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from albef_ds.common.apex import nvidia_apex
from albef_ds.common.errors import MachineError


def choose_norm(name: str) -> str:
    """What `compute.layer_norm` stands for: `auto` is apex on a GPU where it is installed, else torch.

    Raises:
        MachineError: apex is asked for and cannot be had.
    """
    there = torch.cuda.is_available() and nvidia_apex("normalization", "FusedLayerNorm") is not None
    if name == "apex" and not there:
        raise MachineError(
            "compute.layer_norm=apex needs a GPU and NVIDIA apex (github.com/NVIDIA/apex, built with --cuda_ext; the package "
            "apex on PyPI is a different project): install it, or use compute.layer_norm=auto"
        )
    return "apex" if name != "torch" and there else "torch"


def set_norms(model: nn.Module, name: str) -> str:
    """Give every LayerNorm of `model` the implementation that `name` stands for; returns which it is."""
    chosen = choose_norm(name)
    if chosen == "apex":
        fused = nvidia_apex("normalization", "FusedLayerNorm").FusedLayerNorm
        for module in list(model.modules()):
            for child_name, child in list(module.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(module, child_name, _fused(fused, child))
    return chosen


def _fused(fused: Any, norm: nn.LayerNorm) -> nn.Module:
    replacement: nn.Module = fused(norm.normalized_shape, eps=norm.eps)
    replacement._parameters.update(norm._parameters)  # the very parameters, which an engine may have cut up already
    return replacement.train(norm.training)
