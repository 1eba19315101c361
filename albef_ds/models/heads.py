"""Output heads of the tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


class VocabularyDecoder(nn.Linear):
    """Maps hidden states to the vocabulary.

    A loss that does not need full rows of logits is passed as `function`. It is called here because under ZeRO-3 the matrix is
    gathered only while this module runs.
    """

    def forward(self, hidden: Tensor, function: Callable[[Tensor, Tensor, Tensor], Tensor] = F.linear) -> Tensor:
        """Returns `function(hidden, weight, bias)`, by default logits (..., V) of `hidden` (..., D)."""
        return function(hidden, self.weight, self.bias)


class MLMHead(nn.Module):
    """BERT's masked-language-modelling head; its decoder shares the word embeddings' matrix."""

    def __init__(self, config: TextConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.decoder = VocabularyDecoder(config.width, config.vocab_size)
        self.decoder.weight = word_embeddings.weight

    def transform(self, hidden: Tensor) -> Tensor:
        """(..., D) -> states (..., D) for the decoder."""
        return self.norm(F.gelu(self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> vocabulary logits (..., V)."""
        return self.decoder(self.transform(hidden))


@dataclass(frozen=True)
class MaskedTokens:
    """The tokens that MLM predicts. Hidden states are computed at `positions`; `of_states` selects the masked ones.

    `of` reads the number of masked tokens from a GPU, once, before the encoders are launched.
    """

    positions: Tensor | None
    """int64 (B, Q): masked positions of each row first, then fillers; None: all L positions."""
    chosen: Tensor
    """int64 (M,): indices into the B Q or B L states, row by row."""
    labels: Tensor
    """int64 (M,), row by row."""

    @classmethod
    def of(cls, mlm_labels: Tensor, only_masked: bool) -> MaskedTokens:
        """Returns the masked tokens of labels (B, L); `only_masked` limits the hidden states to their positions."""
        masked = mlm_labels >= 0
        positions = None
        if only_masked:
            widest = max(int(masked.sum(dim=1).max()), 1)
            positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :widest]
            mlm_labels = mlm_labels.gather(1, positions)
        labels = mlm_labels.flatten()
        chosen = (labels >= 0).nonzero().squeeze(1)
        return cls(positions, chosen, labels[chosen])

    def of_states(self, states: Tensor) -> Tensor:
        """(B, Q or L, D) -> the M masked ones (M, D)."""
        return states.flatten(0, 1).index_select(0, self.chosen)

    def logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Returns (M, V), `head` of the masked states; without `positions` it is computed of all states first, as released."""
        return self.of_states(head(hidden)) if self.positions is None else head(self.of_states(hidden))
