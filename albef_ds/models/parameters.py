"""Access to the weights of a parameter, which an engine may have partitioned."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class ParameterAccess(Protocol):
    """Reads shapes and writes weights. No call communicates: every rank writes the same values."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Returns the full parameter's shape."""
        ...

    def write(self, parameter: nn.Parameter, weights: Tensor) -> None:
        """Sets the parameter to `weights`, a full tensor of its shape and of any dtype."""
        ...


class WholeParameters(ParameterAccess):
    """Access to parameters that are not partitioned."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.shape

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, weights: Tensor) -> None:
        parameter.copy_(weights)


WHOLE: ParameterAccess = WholeParameters()
