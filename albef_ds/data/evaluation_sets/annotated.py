"""Annotated samples for evaluation: every sample once, in the file's order, with nothing random.

Texts are tokenised once and padded to one length, so a sample's tensors do not depend on its batch. An image that cannot be
decoded is an error: skipping it would change the meaning of a score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from albef_ds.common.errors import DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.image_files import ImageFiles
from albef_ds.data.annotations.records import CaptionRecord, ExpressionRecord, QuestionRecord, Record, StatementRecord
from albef_ds.data.batch import Batch, ClassificationBatch
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.text.clean import clean_caption
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids

R = TypeVar("R", StatementRecord, QuestionRecord, ExpressionRecord)


class _Reader:
    """Reads images and texts of records as tensors."""

    def __init__(self, config: DataConfig, image_size: int, records: Sequence[Record]) -> None:
        self.image_files = ImageFiles(config)
        self.image_files.require(records)
        self.config, self.image_size = config, image_size
        self.tokenizer = CaptionTokenizer.from_config(config)

    def images(self, record: Record) -> Tensor:
        """Returns float32 (I, 3, H, W).

        Raises `DataError` for an image that cannot be decoded, or is not of the annotated shape.
        """
        try:
            files = self.image_files.read(record)
            read = [decode.read_image(data, self.config.max_pixels, compat=self.config.compat) for data in files]
        except BrokenSampleError as error:
            raise DataError(f"an image of the evaluation cannot be used ({record!s:.120}: {error}): restore it") from None
        if isinstance(record, ExpressionRecord):
            _check_shape(record, read[0].width, read[0].height)
        return torch.stack([decode.evaluation_view(image, self.image_size) for image in read])

    def tokens(self, texts: Sequence[str], *, questions: bool = False) -> tuple[Tensor, Tensor]:
        """Returns ids int64 (T, L) and mask bool (T, L).

        Raises `DataError` for a text that is empty after cleaning; with `data.compat` it is scored as it is.
        """
        ids, mask = pad_ids([self.tokenizer.read(text, question=questions)[1] for text in texts])
        self.tokenizer.say_cut(len(texts))
        empty = (mask.sum(dim=1) < 2).nonzero().flatten().tolist()
        if empty and not self.config.compat:
            raise DataError(f"text {texts[empty[0]]!r} of the evaluation is empty after cleaning: fix the annotation file")
        return ids, mask


def _check_shape(record: ExpressionRecord, width: int, height: int) -> None:
    """Raises `DataError` if boxes in the annotated image are not boxes in this one: it may be smaller, but not turned or cut."""
    scale = max(width / record.width, height / record.height)
    if abs(record.width * scale - width) > 1 or abs(record.height * scale - height) > 1:
        raise DataError(
            f"{record.image} has {width} x {height} pixels, but its annotation {record.width} x {record.height}: give the image "
            "that was annotated, upright"
        )


class TextImageSet(Generic[R]):
    """Samples of one text each: statements, questions or referring expressions.

    Args:
        records: the samples.
        config: the data section: image root, cleaning, tokenizer.
        image_size: side of the images in pixels.

    Raises:
        UserError: missing images, or a text that is empty after cleaning.
    """

    def __init__(self, records: Sequence[R], config: DataConfig, image_size: int) -> None:
        self.records: list[R] = list(records)
        self._reader = _Reader(config, image_size, self.records)
        self._ids, self._mask = self._reader.tokens(
            [record_text(record) for record in self.records],
            questions=any(isinstance(record, QuestionRecord) for record in self.records),
        )

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Returns the samples `rows`: a ClassificationBatch of statements, else a Batch of one image each."""
        chosen = [self.records[row] for row in rows]
        images = torch.stack([self._reader.images(record) for record in chosen])
        index = torch.tensor(list(rows))
        ids, mask = self._ids[index], self._mask[index]
        if isinstance(chosen[0], StatementRecord):
            labels = torch.tensor([record.label for record in chosen if isinstance(record, StatementRecord)])
            return ClassificationBatch(images=images, token_ids=ids, token_mask=mask, labels=labels, positions=index)
        return Batch(images=images[:, 0], token_ids=ids, token_mask=mask, positions=index)

    def tokens(self, row: int) -> list[str]:
        """Returns the tokens of sample `row` as text, [CLS] first."""
        return self._reader.tokenizer.decode(self._ids[row][self._mask[row]].tolist())


def record_text(record: Record) -> str:
    """Returns the text of a record that has exactly one."""
    if isinstance(record, StatementRecord):
        return record.sentence
    if isinstance(record, QuestionRecord):
        return record.question
    assert isinstance(record, ExpressionRecord)
    return record.text


class PairSet:
    """Images and captions for recall@k, a `metrics.retrieval.RetrievalData`.

    Records of one `image_id` count as one image, with the distinct captions of all of them (all captions with `data.compat`).

    Args:
        records: images with captions.
        config: the data section.
        image_size: side of the images in pixels.
        limit: number of records to take from the start; 0: all.

    Raises:
        UserError: missing images, or a caption that is empty after cleaning.
    """

    def __init__(self, records: Sequence[CaptionRecord], config: DataConfig, image_size: int, limit: int = 0) -> None:
        chosen = list(records)[: limit or None]
        self._reader = _Reader(config, image_size, chosen)
        self._records: list[CaptionRecord] = []
        number_of: dict[str, int] = {}
        pairs: dict[tuple[int, str, int], str] = {}
        for record in chosen:
            if record.image_id not in number_of:
                number_of[record.image_id] = len(self._records)
                self._records.append(record)
            for caption in record.captions:
                again = len(pairs) if config.compat else 0  # the released code counts an equal caption again
                pairs.setdefault((number_of[record.image_id], clean_caption(caption, config.max_words), again), caption)
        self.captions = [caption for _, caption, _ in pairs]
        self.caption_image = torch.tensor([owner for owner, *_ in pairs])
        """int64 (num_captions,): index of each caption's image."""
        self._ids, self._mask = self._reader.tokens(list(pairs.values()))

    @property
    def keys(self) -> list[str]:
        """Paths of the images."""
        return [record.image for record in self._records]

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._records)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Returns the images `rows`, float32 (len(rows), 3, H, W)."""
        return torch.cat([self._reader.images(self._records[row]) for row in rows])

    def text_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all captions in batches of ids int64 (B, L) and mask bool (B, L)."""
        for start in range(0, len(self.captions), batch_size):
            yield self._ids[start : start + batch_size], self._mask[start : start + batch_size]
