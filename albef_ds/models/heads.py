"""Heads that tasks put on the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.config.schema import TextConfig
from albef_ds.models.bert import init_bert_weights


class MLMHead(nn.Module):
    """BERT's masked-language-modelling head; its decoder shares the word embeddings' matrix."""

    def __init__(self, config: TextConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.width, config.vocab_size)
        self.apply(init_bert_weights)
        self.decoder.weight = word_embeddings.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> vocabulary logits (..., V)."""
        return self.decoder(self.norm(F.gelu(self.dense(hidden))))
