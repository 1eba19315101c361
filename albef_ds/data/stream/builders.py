"""Builders of training samples from annotated records, one per kind of sample. Random parts depend on (seed, position) only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.records import CaptionRecord, QuestionRecord, Record, StatementRecord
from albef_ds.data.batch import ClassificationBatch, RawBatch, VqaBatch
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.images.view import RawImages, View, stack_views
from albef_ds.data.stream.samples import SampleBuilder, collate
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids

VIEWS_APART = 0x9E37
"""Added to the seed for a sample's second image, so that its crop is independent of the first's."""


class Builder(Protocol):
    """Builds samples and collates them into batches."""

    @property
    def num_cut(self) -> int:
        """Texts that were longer than the limits of words and tokens so far."""

    def build(self, record: Any, images: list[bytes], position: int) -> Any:
        """Returns the sample at `position`. Raises `BrokenSampleError`."""

    def collate(self, samples: list[Any]) -> RawBatch:
        """Returns `samples` as a micro-batch."""


class PairBuilder:
    """Builds an image and one of its captions, for retrieval, grounding and text assignment."""

    def __init__(self, config: DataConfig, image_size: int, seed: int) -> None:
        self._samples = SampleBuilder(config, image_size, seed)

    @property
    def num_cut(self) -> int:
        return self._samples.tokenizer.num_cut

    def build(self, record: CaptionRecord, images: list[bytes], position: int) -> Any:
        """Returns the sample of `SampleBuilder.build`."""
        return self._samples.build(images[0], record.captions, record.image_id, record.image, position)

    def collate(self, samples: list[Any]) -> RawBatch:
        """Returns `samples` as a batch."""
        return collate(samples)


@dataclass(frozen=True)
class _Views:
    """The images and the token ids of one sample."""

    images: list[View]
    token_ids: Any
    position: int
    record: Any


class _ViewBuilder:
    """Base for classification and VQA: augmented images and one cleaned text."""

    def __init__(self, config: DataConfig, image_size: int, seed: int) -> None:
        self.config, self.image_size, self.seed = config, image_size, seed
        self.tokenizer = CaptionTokenizer.from_config(config)

    @property
    def num_cut(self) -> int:
        return self.tokenizer.num_cut

    def views(self, record: Record, text: str, images: list[bytes], position: int, *, question: bool = False) -> _Views:
        """Returns the sample. Raises `BrokenSampleError`: an image cannot be decoded, or the text is empty after cleaning."""
        _, token_ids = self.tokenizer.read(text, question=question)
        if len(token_ids) < 2:
            raise BrokenSampleError("empty caption", "nothing is left after cleaning")
        made = [
            decode.training_view(image, self.config, self.image_size, self.seed + number * VIEWS_APART, position)
            for number, image in enumerate(images)
        ]
        return _Views(made, token_ids, position, record)


class StatementBuilder(_ViewBuilder):
    """Builds samples of visual entailment and NLVR2, with one label per sample. See `Builder`."""

    def build(self, record: StatementRecord, images: list[bytes], position: int) -> _Views:
        return self.views(record, record.sentence, images, position)

    def collate(self, samples: list[_Views]) -> ClassificationBatch[RawImages]:
        token_ids, token_mask = pad_ids([sample.token_ids for sample in samples])
        return ClassificationBatch(
            images=stack_views([view for sample in samples for view in sample.images], len(samples[0].images)),
            token_ids=token_ids,
            token_mask=token_mask,
            labels=torch.tensor([sample.record.label for sample in samples]),
            positions=torch.tensor([sample.position for sample in samples]),
            keys=tuple(sample.record.images[0] for sample in samples),
        )


class QuestionBuilder(_ViewBuilder):
    """Builds questions of VQA with every distinct answer and its weight; answers end with [SEP]. See `Builder`."""

    def __init__(self, config: DataConfig, image_size: int, seed: int) -> None:
        super().__init__(config, image_size, seed)
        self.answers = CaptionTokenizer.for_answers(config)

    def build(self, record: QuestionRecord, images: list[bytes], position: int) -> _Views:
        return self.views(record, record.question, images, position, question=True)

    def collate(self, samples: list[_Views]) -> VqaBatch[RawImages]:
        token_ids, token_mask = pad_ids([sample.token_ids for sample in samples])
        answers = [pair for sample in samples for pair in sample.record.answers]
        answer_ids, answer_mask = pad_ids([self.answers.encode(answer) for answer, _ in answers])
        return VqaBatch(
            images=stack_views([sample.images[0] for sample in samples]),
            token_ids=token_ids,
            token_mask=token_mask,
            answer_ids=answer_ids,
            answer_mask=answer_mask,
            answer_weights=torch.tensor([weight for _, weight in answers], dtype=torch.float32),
            answer_counts=torch.tensor([len(sample.record.answers) for sample in samples]),
            positions=torch.tensor([sample.position for sample in samples]),
            keys=tuple(str(sample.record.question_id) for sample in samples),
        )
