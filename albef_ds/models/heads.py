"""Heads that tasks put on the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.config.schema import TextConfig


class ClassificationHead(nn.Module):
    """Two linear layers over a fused [CLS] (released code: linear, ReLU, linear)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) -> logits (B, num_classes)."""
        return self.output(F.relu(self.dense(hidden)))


class MLMHead(nn.Module):
    """BERT's masked-language-modelling head; its decoder shares the word embeddings' matrix."""

    def __init__(self, config: TextConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.width, config.vocab_size)
        self.decoder.weight = word_embeddings.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> vocabulary logits (..., V)."""
        return self.decoder(self.norm(F.gelu(self.dense(hidden))))
