"""A batch of full size without data, to meet running out of memory before step 1."""

from __future__ import annotations

import torch

from albef_ds.config.schema import RunConfig
from albef_ds.types import ImageTextBatch

_WORD = 1000
"""Any ordinary token id."""


def mock_batch(config: RunConfig) -> ImageTextBatch:
    """`train.micro_batch_size` grey images with captions of `data.max_tokens` tokens, the usual share of them masked."""
    size, length, side = config.train.micro_batch_size, config.data.max_tokens, config.model.vision.image_size
    token_ids = torch.full((size, length), min(_WORD, config.model.text.vocab_size - 1))
    labels = torch.full((size, length), -100)
    masked = max(1, round(2 * config.data.mlm_probability * length))  # a batch with many long masks, not the average one
    labels[:, 1 : 1 + masked] = token_ids[:, 1 : 1 + masked]
    rows = torch.arange(size)
    return ImageTextBatch(
        images=torch.zeros(size, 3, side, side),
        token_ids=token_ids,
        token_mask=torch.ones(size, length, dtype=torch.bool),
        masked_ids=token_ids,
        mlm_labels=labels,
        image_ids=rows,
        caption_ids=rows,
        positions=rows,
    )
