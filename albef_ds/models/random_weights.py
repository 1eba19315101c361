"""Random initial weights as a function of the seed and each module's path only.

A model starts from the same numbers for any number of ranks and any ZeRO stage, and at most one of its modules is in full at any
time. These weights replace the initial values of torch's constructors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from albef_ds.models.bert import init_bert_weights
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.models.vit import VisualEncoder, init_vit_weights

Rule = Callable[[nn.Module], None]


STD = 0.02
"""Standard deviation of random weights in BERT and ViT, which are 768 wide."""


def initialise(model: nn.Module, seed: int, access: ParameterAccess = WHOLE, std: float = STD) -> None:
    """Draws the weights of `model` in place; the state of the global generator is restored.

    Linear layers, embeddings and norms follow ViT's rule inside a `VisualEncoder` and BERT's elsewhere; other modules with a
    `reset_parameters` use that; parameters of any other module keep the values of their constructor. `std` is the standard
    deviation of linear layers' matrices and of the table of image positions; that of the rules is `STD`.
    """
    drawn: set[nn.Parameter] = set()
    # Without a GPU torch.manual_seed keeps every seed for one that might appear, with a traceback each: 4 ms.
    manual_seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=[]):
        for path, module, rule in _modules(model, "", init_bert_weights, set()):
            own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
            if not own or not (isinstance(module, _RULED) or hasattr(module, "reset_parameters")):
                continue
            manual_seed(_seed(seed, path))
            # A parameter shared with an earlier module was drawn there: here an empty stand-in is drawn instead.
            shapes = {name: (0,) if parameter in drawn else access.shape(parameter) for name, parameter in own.items()}
            stand_ins = {name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()}
            module._parameters.update(stand_ins)
            try:
                if isinstance(module, _RULED):
                    rule(module)
                else:
                    module.reset_parameters()  # type: ignore[operator]
            finally:
                module._parameters.update(own)
            scaled = "weight" if isinstance(module, nn.Linear) else "pos_embed"
            if scaled in stand_ins and std != STD:
                stand_ins[scaled].data *= std / STD
            for name, parameter in own.items():
                if parameter not in drawn:
                    access.write(parameter, stand_ins[name].detach())
                    drawn.add(parameter)


_RULED = (nn.Linear, nn.Embedding, nn.LayerNorm)


def _modules(module: nn.Module, path: str, rule: Rule, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module, Rule]]:
    if module in seen:
        return
    seen.add(module)
    rule = init_vit_weights if isinstance(module, VisualEncoder) else rule
    yield path, module, rule
    for name, child in module.named_children():
        yield from _modules(child, f"{path}.{name}" if path else name, rule, seen)


def _seed(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:8], "big", signed=True)
