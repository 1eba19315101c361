"""The MLM corruption of a caption (paper section 3.2, after BERT): chooses the tokens to predict and replaces them."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""Label of a position that MLM does not predict."""


def mask_tokens(
    token_ids: NDArray[np.int64], generator: random.Random, *, probability: float, mask_id: int, vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the corrupted ids and the labels of one unpadded caption, both int64 (L,).

    Every token but the first ([CLS]) is chosen with `probability`; 80% of the chosen become [MASK], 10% a token drawn uniformly
    from the vocabulary, 10% stay. At least one is always chosen (if there is any and `probability` is not 0): the loss is a
    mean over chosen positions, so a caption without one would waste its image pass, and a micro-batch without one would have no
    loss.
    """
    masked, labels = token_ids.copy(), np.full_like(token_ids, IGNORED)
    length = len(token_ids)
    if length < 2 or probability <= 0.0:
        return masked, labels
    chosen = [place for place in range(1, length) if generator.random() < probability]
    for place in chosen or [1 + int(generator.random() * (length - 1))]:
        labels[place] = token_ids[place]
        kind = generator.random()
        if kind < 0.8:
            masked[place] = mask_id
        elif kind < 0.9:
            masked[place] = int(generator.random() * vocab_size)
    return masked, labels
