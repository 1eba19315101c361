"""How weights get into a parameter: whole here, in parts where an engine has cut the parameters up."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class ParameterAccess(Protocol):
    """What writing weights needs to know of a parameter. No call communicates: every rank writes the same values."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """The whole parameter's shape."""
        ...

    def write(self, parameter: nn.Parameter, weights: Tensor) -> None:
        """Set the parameter to `weights`, whole and of its shape; of another dtype if need be."""
        ...


class WholeParameters:
    """Parameters as torch makes them."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """See `ParameterAccess.shape`."""
        return parameter.shape

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, weights: Tensor) -> None:
        """See `ParameterAccess.write`."""
        parameter.copy_(weights)


WHOLE: ParameterAccess = WholeParameters()
