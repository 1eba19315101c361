"""Visual question answering by the official accuracy (Antol et al., ICCV 2015): ranking a list of answers, or writing freely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from albef_ds.common.errors import DataError
from albef_ds.common.progress import Progress, silent
from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.records import QuestionRecord
from albef_ds.data.annotations.vqa_text import normalize_answer, strip_breaks
from albef_ds.data.batch import Batch
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids
from albef_ds.metrics.over_ranks import Modules, deal, eval_mode

MOST_GENERATED = 10
"""Tokens of a freely written answer."""


def official_accuracy(prediction: str, humans: Sequence[str]) -> float:
    """From 0 to 1: min(1, matches / 3) averaged over every choice of all annotators but one.

    Where all annotators agree to the letter the texts are compared as they are, else all are normalised first: so the
    published evaluation does.
    """
    answers = [strip_breaks(answer) for answer in humans]
    prediction = strip_breaks(prediction)
    if len(set(answers)) > 1:
        answers = [normalize_answer(answer) for answer in answers]
        prediction = normalize_answer(prediction)
    matches = [answer == prediction for answer in answers]
    return sum(min(1.0, (sum(matches) - own) / 3) for own in matches) / len(matches)


class Answerer(Modules, Protocol):
    """A module that answers questions; `VqaTask` is one and says more of these methods."""

    def fuse_question(self, batch: Batch, *, momentum: bool = False) -> Tensor:
        """The questions fused with their images (B, L, D)."""

    def rank_answers(
        self, embeds: Tensor, mask: Tensor, answer_ids: Tensor, answer_mask: Tensor, k: int, /, *, momentum: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The k best answers to each question (B, k), best first, and their probabilities."""

    def generate(
        self, embeds: Tensor, mask: Tensor, /, *, start_id: int, end_id: int, max_tokens: int, momentum: bool = False
    ) -> Tensor:
        """Written answers (B, L), padded with 0."""


class VqaEvaluator:
    """Answers every question; all ranks construct and run it together.

    Args:
        task: on `device`, as an engine holds it.
        data: questions, the same on every rank.
        answers: the list to rank; empty: answers are written freely.
        config: the data section, for the tokenizer.
        device: where to compute.
        k_test: answers that are ranked by all of their tokens.
        batch_size: questions per forward pass.
        momentum: answer with the momentum copy.
        prefix: first part of the metrics' names.
        progress: told about every batch.
    """

    def __init__(
        self,
        task: Answerer,
        data: TextImageSet[QuestionRecord],
        answers: Sequence[str],
        config: DataConfig,
        device: torch.device,
        *,
        k_test: int = 128,
        batch_size: int = 64,
        momentum: bool = False,
        prefix: str = "vqa",
        progress: Progress | None = None,
    ) -> None:
        self.task, self.data, self.answers, self.device = task, data, list(answers), device
        self.k_test, self.batch_size, self.momentum, self.prefix = k_test, batch_size, momentum, prefix
        self._progress = progress or silent
        self._tokenizer = CaptionTokenizer(config.vocab_file, config.max_tokens, sep_token=True)
        rows = [self._tokenizer.encode(answer) for answer in self.answers]
        for answer, row in zip(self.answers, rows, strict=True):
            if len(row) < 2:
                raise DataError(f"answer {answer!r} of data.answer_list has no tokens: remove it")
        ids, mask = pad_ids(rows)
        self._ids, self._mask = ids.to(device), mask.to(device)
        self.predictions: dict[int, str] = {}
        """Question id to answer, after `run`."""

    @torch.no_grad()
    def run(self) -> Iterator[tuple[str, float]]:
        """(name, value): `accuracy` in per cent where answers are known, the share of them that the list holds, and counts."""
        with eval_mode(self.task):
            [rows] = deal(
                len(self.data),
                self.batch_size,
                self._rank if self.answers else self._write,
                self.device,
                lambda done, total: self._progress("questions", done, total),
            )
        texts = [self.answers[row] for row in rows.tolist()] if self.answers else [self._text(row) for row in rows.tolist()]
        self.predictions = {record.question_id: text for record, text in zip(self.data.records, texts, strict=True)}
        judged = [(record, text) for record, text in zip(self.data.records, texts, strict=True) if record.humans]
        if judged:
            total = sum(official_accuracy(text, record.humans) for record, text in judged)
            yield f"{self.prefix}/accuracy", 100.0 * total / len(judged)
            if self.answers:
                known = {normalize_answer(answer) for answer in self.answers}
                covered = sum(any(normalize_answer(human) in known for human in record.humans) for record, _ in judged)
                yield f"{self.prefix}/answers_in_list", 100.0 * covered / len(judged)
        yield f"{self.prefix}/num_questions", float(len(self.data))
        yield f"{self.prefix}/num_judged", float(len(judged))
        yield f"{self.prefix}/num_answers", float(len(self.answers))

    def _rank(self, rows: Tensor) -> tuple[Tensor, ...]:
        batch = self.data.batch(rows.tolist()).to(self.device)
        fused = self.task.fuse_question(batch, momentum=self.momentum)
        best, _ = self.task.rank_answers(fused, batch.token_mask, self._ids, self._mask, self.k_test, momentum=self.momentum)
        return (best[:, 0],)

    def _write(self, rows: Tensor) -> tuple[Tensor, ...]:
        batch = self.data.batch(rows.tolist()).to(self.device)
        fused = self.task.fuse_question(batch, momentum=self.momentum)
        start, end = self._tokenizer.cls_id, self._tokenizer.sep_id
        tokens = self.task.generate(
            fused, batch.token_mask, start_id=start, end_id=end, max_tokens=MOST_GENERATED, momentum=self.momentum
        )
        return (torch.nn.functional.pad(tokens, (0, MOST_GENERATED - tokens.shape[1])),)

    def _text(self, ids: list[int]) -> str:
        """Word pieces joined: `##` pieces continue a word."""
        return " ".join(self._tokenizer.decode([i for i in ids if i])).replace(" ##", "")
