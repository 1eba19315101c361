"""Regional `torch.compile`: each block of the encoders separately, so that one graph serves all blocks of a class.

The block's `forward` is compiled, not the module: an engine's hooks stay outside the graph, and recomputation wraps the compiled
block. Under ZeRO-3, every layer inside a block has hooks too: there the blocks of the unimodal encoders are gathered as a whole
(`engine/zero/engine.py`) and compiled; those of the multimodal encoder, whose arguments are not only tensors, are not compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from albef_ds.models.bert import FusionLayer, TextLayer
from albef_ds.models.vit import Block

UNIMODAL_BLOCKS = (Block, TextLayer)
BLOCKS = (*UNIMODAL_BLOCKS, FusionLayer)


def compile_blocks(module: nn.Module, kinds: tuple[type[nn.Module], ...] = BLOCKS, *, backend: str = "inductor") -> int:
    """Compiles every transformer block of `kinds` in `module` at its first call; returns the number of blocks.

    Call it after the student's momentum copy has been made: a copy would share the compiled forward.

    Args:
        module: the model.
        kinds: classes of blocks.
        backend: backend of `torch.compile`; inductor needs a C++ compiler on a CPU, Triton on a GPU.
    """
    blocks = [block for block in module.modules() if isinstance(block, kinds)]
    for block in blocks:
        compiled: Any = torch.compile(block.forward, backend=backend)
        block.forward = compiled
    return len(blocks)
