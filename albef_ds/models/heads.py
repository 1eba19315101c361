"""Heads that tasks put on the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.config.schema import TextConfig
from albef_ds.models.losses.sliced import soft_cross_entropy
from albef_ds.models.losses.sliced_problem import LogitTeacher, Positives


class ClassificationHead(nn.Module):
    """Two linear layers over a fused [CLS] (released code: linear, ReLU, linear)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) -> logits (B, num_classes)."""
        return self.output(F.relu(self.dense(hidden)))


@dataclass(frozen=True)
class WordTarget:
    """What M masked tokens should be."""

    labels: Tensor
    """int64 (M,)."""
    momentum_logits: Tensor | None
    """(M, V), or None where alpha is 0."""
    alpha: float
    """Weight of the momentum model (paper eq. 7)."""
    fused: bool = False
    """By Triton kernels."""


class VocabularyDecoder(nn.Linear):
    """Hidden states to the vocabulary, or straight to the loss by slices of it.

    The loss is computed in here because under ZeRO-3 the matrix is whole only while this module runs.
    """

    def forward(self, hidden: Tensor, target: WordTarget | None = None) -> Tensor:
        """(..., D) -> logits (..., V); with a `target` (M, D) -> losses (M,) without logits as a whole."""
        if target is None:
            return super().forward(hidden)
        teacher = None if target.momentum_logits is None else LogitTeacher(target.momentum_logits)
        with torch.autocast(hidden.device.type, enabled=False):
            one = torch.ones(1, dtype=torch.float32, device=hidden.device)
            positives = Positives(labels=target.labels)
            return soft_cross_entropy(hidden, self.weight, self.bias, one, positives, teacher, target.alpha, fused=target.fused)


class MLMHead(nn.Module):
    """BERT's masked-language-modelling head; its decoder shares the word embeddings' matrix."""

    def __init__(self, config: TextConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.decoder = VocabularyDecoder(config.width, config.vocab_size)
        self.decoder.weight = word_embeddings.weight

    def forward(self, hidden: Tensor, target: WordTarget | None = None) -> Tensor:
        """(..., D) -> vocabulary logits (..., V); with a `target` (M, D) -> the loss of each token (M,)."""
        return self.decoder(self.norm(F.gelu(self.dense(hidden))), target)
