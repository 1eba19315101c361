"""The retrieval set of a corpus: every image and caption once, in a fixed order, with nothing random.

This module prepares inputs; it computes neither features nor recall.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from albef_ds.common.errors import DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.shards.format import sample_key
from albef_ds.data.store.open import open_corpus
from albef_ds.data.stream.samples import read_text
from albef_ds.data.text.tokenizer import CaptionTokenizer


class RetrievalSet:
    """Images and captions of the corpus folder `folder` for recall@k.

    Samples with the same `image_id` count as one image (the first), with the distinct captions of all of them. A caption is a
    query once per image that has it (with `data.compat` as often as the image has it). A broken sample is an error: skipping it
    would change the meaning of a score.

    Args:
        folder: a corpus, a folder or a URL.
        config: the data section: caption cleaning, tokenizer, `max_pixels`.
        image_size: side of the images in pixels.
        limit: number of samples to take from the start; 0: all.

    Raises:
        UserError: the corpus is missing or damaged, or a caption is empty after cleaning.
    """

    def __init__(self, folder: str | Path, config: DataConfig, image_size: int, limit: int = 0) -> None:
        self._reader = open_corpus(folder, config, whole=True)
        self._max_pixels, self._image_size, self._compat = config.max_pixels, image_size, config.compat
        self._tokenizer = CaptionTokenizer.from_config(config)
        self._places: list[tuple[int, int]] = []
        self.keys: list[str] = []
        """Names of the images."""
        self.captions: list[str] = []
        """Cleaned captions."""
        owners: list[int] = []
        image_of: dict[str, int] = {}
        known: set[tuple[int, str]] = set()
        for number, (shard, row) in enumerate(self._samples(limit)):
            texts, image_id = self._texts(shard, row, sample_key(number))
            if image_id not in image_of:
                image_of[image_id] = len(self._places)
                self._places.append((shard, row))
                self.keys.append(sample_key(number))
            owner = image_of[image_id]
            for text in texts:
                caption, token_ids = self._tokenizer.read(text)
                if len(token_ids) < 2 and not config.compat:
                    raise self._error(sample_key(number), shard, "has a caption that is empty after cleaning")
                if config.compat or (owner, caption) not in known:
                    known.add((owner, caption))
                    self.captions.append(caption)
                    owners.append(owner)
        self._tokenizer.say_cut(len(self.captions))
        self.caption_image = torch.tensor(owners)
        """int64 (num_captions,): index of each caption's image."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._places)

    @property
    def num_captions(self) -> int:
        """Number of captions."""
        return len(self.captions)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Returns the images `rows`, float32 (len(rows), 3, H, W).

        Raises:
            UserError: an image cannot be decoded, or a shard cannot be read.
        """
        pixels = []
        for number in rows:
            shard, row = self._places[number]
            try:
                pixels.append(
                    decode.resize(self._reader.read(shard, row)[0], self._max_pixels, self._image_size, compat=self._compat)
                )
            except BrokenSampleError as error:
                raise self._error(self.keys[number], shard, f"has a broken image: {error}") from None
        return torch.stack(pixels)

    def text_batches(self, batch_size: int, rows: Iterable[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all captions, or those of `rows`, in batches of ids int64 (B, L) and mask bool (B, L)."""
        numbers = iter(range(self.num_captions) if rows is None else rows)
        while chunk := list(islice(numbers, batch_size)):
            yield self._tokenizer([self.captions[number] for number in chunk])

    def _samples(self, limit: int) -> Iterator[tuple[int, int]]:
        left = limit or self._reader.manifest.num_samples
        for shard, count in enumerate(self._reader.counts):
            for row in range(min(count, left)):
                yield shard, row
            left -= min(count, left)

    def _texts(self, shard: int, row: int, key: str) -> tuple[list[str], str]:
        try:
            texts, image_id = read_text(self._reader.read_meta(shard, row))
        except BrokenSampleError as error:
            raise self._error(key, shard, f"cannot be used: {error}") from None
        if not texts:
            raise self._error(key, shard, "has no caption")
        return texts, image_id or key

    def _error(self, key: str, shard: int, problem: str) -> DataError:
        path = f"{self._reader.folder}/{self._reader.shard_name(shard)}"
        return DataError(f"evaluation sample {key} in {path} {problem}; write the corpus again without it")
