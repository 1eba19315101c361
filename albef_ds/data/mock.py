"""Batches of full size without data, to meet running out of memory before step 1.

Each has `train.micro_batch_size` grey images with texts of `data.max_tokens` tokens.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from albef_ds.config.schema import ClassificationConfig, RunConfig
from albef_ds.data.batch import ClassificationBatch, ImageTextBatch, VqaBatch

_WORD = 1000
"""Any ordinary token id."""
_ANSWERS = 3
"""Different answers per question: more than the average of VQA v2."""
_ANSWER_TOKENS = 5


def pairs(config: RunConfig) -> ImageTextBatch:
    """Image-text pairs; twice the usual share of tokens is masked: a batch with many long masks, not the average one."""
    size, length = config.train.micro_batch_size, config.data.max_tokens
    labels = torch.full((size, length), -100)
    masked = max(1, round(2 * config.data.mlm_probability * length))
    labels[:, 1 : 1 + masked] = _word(config)
    rows, texts = torch.arange(size), _texts(config)
    return ImageTextBatch(
        images=_images(config), masked_ids=texts["token_ids"], mlm_labels=labels, image_ids=rows, caption_ids=rows, **texts
    )


def statements(config: RunConfig) -> ClassificationBatch:
    """Statements about `task.num_images` images each, of all classes in turn."""
    task = cast(ClassificationConfig, config.task)  # any task that trains on statements has these settings
    pictures = _images(config)[:, None].repeat(1, task.num_images, 1, 1, 1)
    return ClassificationBatch(
        images=pictures, labels=torch.arange(config.train.micro_batch_size) % task.num_classes, **_texts(config)
    )


def questions(config: RunConfig) -> VqaBatch:
    """Questions with a few answers of several tokens."""
    size = config.train.micro_batch_size
    answers = size * _ANSWERS
    return VqaBatch(
        images=_images(config),
        answer_ids=torch.full((answers, _ANSWER_TOKENS), _word(config)),
        answer_mask=torch.ones(answers, _ANSWER_TOKENS, dtype=torch.bool),
        answer_weights=torch.full((answers,), 1.0 / _ANSWERS),
        answer_counts=torch.full((size,), _ANSWERS),
        **_texts(config),
    )


def _word(config: RunConfig) -> int:
    return min(_WORD, config.model.text.vocab_size - 1)


def _images(config: RunConfig) -> Tensor:
    side = config.model.vision.image_size
    return torch.zeros(config.train.micro_batch_size, 3, side, side)


def _texts(config: RunConfig) -> dict[str, Any]:
    size, length = config.train.micro_batch_size, config.data.max_tokens
    return {
        "token_ids": torch.full((size, length), _word(config)),
        "token_mask": torch.ones(size, length, dtype=torch.bool),
        "positions": torch.arange(size),
    }
