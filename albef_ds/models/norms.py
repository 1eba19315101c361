"""Replaces LayerNorm by apex's fused kernel if NVIDIA's apex is installed. Parameters and results are the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from albef_ds.common.apex import nvidia_apex
from albef_ds.common.errors import MachineError


def choose_norm(name: str) -> str:
    """Returns the implementation for `compute.layer_norm`: `auto` is apex on a GPU if it is installed, else torch.

    Raises:
        MachineError: apex is requested but not available.
    """
    available = torch.cuda.is_available() and nvidia_apex("normalization", "FusedLayerNorm") is not None
    if name == "apex" and not available:
        raise MachineError(
            "compute.layer_norm=apex needs a GPU and NVIDIA apex (github.com/NVIDIA/apex, built with --cuda_ext; the package "
            "apex on PyPI is a different project): install it, or use compute.layer_norm=auto"
        )
    return "apex" if name != "torch" and available else "torch"


def set_norms(model: nn.Module, name: str) -> str:
    """Gives every LayerNorm of `model` the implementation `choose_norm(name)`, which it returns."""
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
    replacement._parameters.update(norm._parameters)  # the same objects: an engine may have partitioned them already
    return replacement.train(norm.training)
