"""Makes full-size batches without data, so that a run that needs too much memory fails before step 1.

Each has `train.micro_batch_size` grey images with texts of `data.max_tokens` tokens.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from albef_ds.config.schema import ClassificationConfig, RunConfig
from albef_ds.data.batch import ClassificationBatch, ImageTextBatch, VqaBatch

_WORD = 1000
"""Any ordinary token id."""
_ANSWERS = 3
"""Distinct answers per question, more than the average of VQA v2."""
_ANSWER_TOKENS = 5


def pairs(config: RunConfig) -> ImageTextBatch:
    """Returns image-text pairs with twice the average number of masked tokens, as an upper bound."""
    shared = _images_and_texts(config)
    labels = torch.full_like(shared["token_ids"], -100)
    masked = max(1, round(2 * config.data.mlm_probability * config.text_length))
    labels[:, 1 : 1 + masked] = _word(config)
    rows = shared["positions"]
    return ImageTextBatch(masked_ids=shared["token_ids"], mlm_labels=labels, image_ids=rows, caption_ids=rows, **shared)


def statements(config: RunConfig) -> ClassificationBatch:
    """Returns statements about `task.num_images` images each, cycling through the classes."""
    task = cast(ClassificationConfig, config.task)  # every task that trains on statements has these settings
    shared = _images_and_texts(config)
    shared["images"] = shared["images"][:, None].repeat(1, task.num_images, 1, 1, 1)
    return ClassificationBatch(labels=shared["positions"] % task.num_classes, **shared)


def questions(config: RunConfig) -> VqaBatch:
    """Returns questions with a few answers of several tokens."""
    size = config.train.micro_batch_size
    answers = size * _ANSWERS
    return VqaBatch(
        answer_ids=torch.full((answers, _ANSWER_TOKENS), _word(config)),
        answer_mask=torch.ones(answers, _ANSWER_TOKENS, dtype=torch.bool),
        answer_weights=torch.full((answers,), 1.0 / _ANSWERS),
        answer_counts=torch.full((size,), _ANSWERS),
        **_images_and_texts(config),
    )


def _word(config: RunConfig) -> int:
    return min(_WORD, config.model.text.vocab_size - 1)


def _images_and_texts(config: RunConfig) -> dict[str, Any]:
    size, length, side = config.train.micro_batch_size, config.text_length, config.model.vision.image_size
    return {
        "images": torch.zeros(size, 3, side, side),
        "token_ids": torch.full((size, length), _word(config)),
        "token_mask": torch.ones(size, length, dtype=torch.bool),
        "positions": torch.arange(size),
    }
