"""Regional `torch.compile`: each block of the encoders by itself, so that one graph serves all blocks of a kind.

The block's `forward` is compiled and not the module, so whatever hooks an engine puts on it stay outside the graph, and
recomputation wraps the compiled block. Under ZeRO-3, where every layer inside a block has hooks as well, the blocks of the
unimodal encoders are fetched whole (`engine/zero/engine.py`) and compiled; those of the multimodal encoder, which take more than
plain tensors, are left as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn

from albef_ds.models.bert import FusionLayer, TextLayer

UNIMODAL_BLOCKS = (Block, TextLayer)
BLOCKS = (*UNIMODAL_BLOCKS, FusionLayer)


def compile_blocks(module: nn.Module, kinds: tuple[type[nn.Module], ...] = BLOCKS, *, backend: str = "inductor") -> int:
    """Compile every transformer block of `kinds` below `module`; returns how many. Compilation happens at the first calls.

    Call it on the student when its momentum copy has been made: a copy would share the compiled forward.

    Args:
        module: the model.
        kinds: classes of blocks.
        backend: of `torch.compile`; inductor needs a C++ compiler on a CPU, Triton on a GPU.
    """
    blocks = [block for block in module.modules() if isinstance(block, kinds)]
    for block in blocks:
        compiled: Any = torch.compile(block.forward, backend=backend)
        block.forward = compiled
    return len(blocks)
