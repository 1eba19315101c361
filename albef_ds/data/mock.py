"""A batch of full size without data, to meet running out of memory before step 1."""

from __future__ import annotations

from typing import Any

import torch

from albef_ds.config.schema import ClassificationConfig, RunConfig, VqaConfig
from albef_ds.data.batch import Batch, ClassificationBatch, ImageTextBatch, VqaBatch

_WORD = 1000
"""Any ordinary token id."""
_ANSWERS = 3
"""Different answers per question: more than the average of VQA v2."""
_ANSWER_TOKENS = 5


def mock_batch(config: RunConfig) -> Batch:
    """`train.micro_batch_size` grey images with texts of `data.max_tokens` tokens, as the task's batches are.

    The usual share of tokens is masked where there is MLM; a question has a few answers of several tokens.
    """
    size, length, side = config.train.micro_batch_size, config.data.max_tokens, config.model.vision.image_size
    word = min(_WORD, config.model.text.vocab_size - 1)
    rows = torch.arange(size)
    shared: dict[str, Any] = {
        "token_ids": torch.full((size, length), word),
        "token_mask": torch.ones(size, length, dtype=torch.bool),
        "positions": rows,
    }
    images = torch.zeros(size, 3, side, side)
    if isinstance(config.task, ClassificationConfig):
        pictures = images[:, None].repeat(1, config.task.num_images, 1, 1, 1)
        return ClassificationBatch(images=pictures, labels=rows % config.task.num_classes, **shared)
    if isinstance(config.task, VqaConfig):
        answers = size * _ANSWERS
        return VqaBatch(
            images=images,
            answer_ids=torch.full((answers, _ANSWER_TOKENS), word),
            answer_mask=torch.ones(answers, _ANSWER_TOKENS, dtype=torch.bool),
            answer_weights=torch.full((answers,), 1.0 / _ANSWERS),
            answer_counts=torch.full((size,), _ANSWERS),
            **shared,
        )
    labels = torch.full((size, length), -100)
    masked = max(1, round(2 * config.data.mlm_probability * length))  # a batch with many long masks, not the average one
    labels[:, 1 : 1 + masked] = word
    return ImageTextBatch(
        images=images, masked_ids=shared["token_ids"], mlm_labels=labels, image_ids=rows, caption_ids=rows, **shared
    )
