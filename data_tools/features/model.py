"""The only place of data_tools that loads a model. A process loads one once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from albef_ds.inference.pairs import PairScorer

Scorer: TypeAlias = "PairScorer"
"""What computes features and scores."""


@dataclass(frozen=True)
class ModelChoice:
    """A model and how to run it."""

    path: str
    """Model folder, run, checkpoint, or weights file, as `albef_ds.load` takes it."""
    weights: Literal["student", "momentum"] = "student"
    device: str = "auto"
    """auto: the GPU of this rank (LOCAL_RANK) if there is one."""
    dtype: str = ""
    """Precision to compute in, such as bf16; empty: fp32."""
    overrides: tuple[str, ...] = ()
    """`section.field=value` for settings that a released file does not hold."""
    batch_size: int = 64
    """Images, and captions, per forward pass."""


@lru_cache(maxsize=1)
def load_scorer(choice: ModelChoice) -> Scorer:
    """Loads the model of `choice`. Raises UserError if it cannot be used."""
    # start-up time: torch and the model's packages
    import torch

    from albef_ds.inference.model import load
    from albef_ds.inference.pairs import PairScorer

    device = choice.device
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    model = load(choice.path, device=device, dtype=choice.dtype or None, weights=choice.weights, overrides=choice.overrides)
    return PairScorer(model, choice.batch_size)
