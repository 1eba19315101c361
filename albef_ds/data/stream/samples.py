"""Makes training examples from bytes, and batches from examples. Does not deal with shards, ranks or workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.images.view import RawImages, View, stack_views
from albef_ds.data.shards.reader import parse_meta
from albef_ds.data.text.masking import IGNORED, mask_tokens
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids


def stable_id(text: str | bytes) -> int:
    """Returns a 63-bit hash of `text`, the same on every machine: equal ids mean equal text."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Example:
    """One sample, before it is collated into a batch."""

    view: View
    token_ids: NDArray[np.int64]
    masked_ids: NDArray[np.int64]
    mlm_labels: NDArray[np.int64]
    image_id: int
    caption_id: int
    position: int
    key: str


def read_text(raw_meta: bytes) -> tuple[list[str], str]:
    """Returns the captions and the image id in a sample's JSON.

    Raises:
        BrokenSampleError: it is not JSON, or has no list of captions.
    """
    try:
        meta: dict[str, Any] = parse_meta(raw_meta)
    except ValueError as error:
        raise BrokenSampleError("unreadable JSON", str(error)) from None
    captions = meta.get("captions")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise BrokenSampleError("unreadable JSON", "captions is not a list of strings")
    return captions, str(meta.get("image_id", ""))


class SampleBuilder:
    """Builds training examples whose random parts are a function of (`seed`, position). Picklable."""

    def __init__(self, config: DataConfig, image_size: int, seed: int) -> None:
        self.config = config
        self.image_size = image_size
        self.seed = seed
        self.tokenizer = CaptionTokenizer.from_config(config)

    def build(self, image: bytes, captions: Sequence[str], image_id: str, key: str, position: int) -> Example:
        """Returns the example at `position`; one of several captions is drawn at random.

        Raises:
            BrokenSampleError: the image cannot be decoded, or the caption is empty after cleaning.
        """
        caption, token_ids = self._caption(captions, position)
        masked_ids, labels = mask_tokens(
            token_ids,
            randomness.generator(self.seed, position, randomness.MASK),
            probability=self.config.mlm_probability,
            mask_id=self.tokenizer.mask_id,
            vocab_size=self.tokenizer.vocab_size,
        )
        view = decode.training_view(image, self.config, self.image_size, self.seed, position)
        return Example(view, token_ids, masked_ids, labels, stable_id(image_id or key), stable_id(caption), position, key)

    def _caption(self, captions: Sequence[str], position: int) -> tuple[str, NDArray[np.int64]]:
        if not captions:
            raise BrokenSampleError("empty caption", "no caption at all")
        chosen = 0
        if len(captions) > 1:
            chosen = int(randomness.generator(self.seed, position, randomness.CAPTION).random() * len(captions))
        caption, token_ids = self.tokenizer.read(captions[chosen])
        if len(token_ids) < 2:
            raise BrokenSampleError("empty caption", "nothing is left after cleaning")
        return caption, token_ids


def collate(examples: Sequence[Example]) -> ImageTextBatch[RawImages]:
    """Returns `examples` as one batch, texts padded to the longest."""
    token_ids, token_mask = pad_ids([example.token_ids for example in examples])
    return ImageTextBatch(
        images=stack_views([example.view for example in examples]),
        token_ids=token_ids,
        token_mask=token_mask,
        masked_ids=pad_ids([example.masked_ids for example in examples])[0],
        mlm_labels=pad_ids([example.mlm_labels for example in examples], IGNORED)[0],
        image_ids=torch.tensor([example.image_id for example in examples]),
        caption_ids=torch.tensor([example.caption_id for example in examples]),
        positions=torch.tensor([example.position for example in examples]),
        keys=tuple(example.key for example in examples),
    )
