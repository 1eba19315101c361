"""Regional `torch.compile`: each block of the encoders by itself, so that one graph serves all blocks of a kind.

The block's `forward` is compiled and not the module, so whatever hooks an engine puts on it stay outside the graph, and
recomputation wraps the compiled block.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn

from albef_ds.models.bert import FusionLayer, TextLayer

BLOCKS = (Block, TextLayer, FusionLayer)


def compile_blocks(module: nn.Module, *, backend: str = "inductor") -> int:
    """Compile every transformer block below `module`; returns how many. Compilation happens at the first calls.

    Call it on the student when its momentum copy has been made: a copy would share the compiled forward.

    Args:
        module: the model.
        backend: of `torch.compile`; inductor needs a C++ compiler on a CPU, Triton on a GPU.
    """
    blocks = [block for block in module.modules() if isinstance(block, BLOCKS)]
    for block in blocks:
        compiled: Any = torch.compile(block.forward, backend=backend)
        block.forward = compiled  # type: ignore[method-assign]
    return len(blocks)
