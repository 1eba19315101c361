"""Official VQA accuracy (Antol et al., ICCV 2015) of answers that are ranked in a list or generated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.records import QuestionRecord
from albef_ds.data.annotations.vqa import read_answer_list
from albef_ds.data.annotations.vqa_text import normalize_answer, strip_breaks
from albef_ds.data.batch import Batch
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.data.text.answers import candidate_ids
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids
from albef_ds.metrics.over_ranks import Modules, eval_mode, map_rows
from albef_ds.metrics.scores import EvaluationOptions, Scores

MOST_GENERATED = 10
"""Longest generated answer, in tokens."""


def official_accuracy(prediction: str, humans: Sequence[str]) -> float:
    """Accuracy from 0 to 1: min(1, matches / 3), averaged over every choice of all annotators but one.

    As in the official evaluation, texts are normalised first unless all annotators gave exactly the same answer.
    """
    answers = [strip_breaks(answer) for answer in humans]
    prediction = strip_breaks(prediction)
    if len(set(answers)) > 1:
        answers = [normalize_answer(answer) for answer in answers]
        prediction = normalize_answer(prediction)
    matches = [answer == prediction for answer in answers]
    return sum(min(1.0, (sum(matches) - own) / 3) for own in matches) / len(matches)


class Answerer(Modules, Protocol):
    """A module that answers questions; `VqaTask` is one and documents these methods."""

    def fuse_question(self, batch: Batch, *, momentum: bool = False) -> Tensor:
        """Embeddings (B, L, D) of the questions fused with their images."""

    def rank_answers(
        self, embeds: Tensor, mask: Tensor, answer_ids: Tensor, answer_mask: Tensor, k: int, /, *, momentum: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Rows of the k best answers to each question (B, k), best first, and their probabilities."""

    def generate(
        self, embeds: Tensor, mask: Tensor, /, *, start_id: int, end_id: int, max_tokens: int, momentum: bool = False
    ) -> Tensor:
        """Ids of generated answers (B, L), padded with 0."""


@torch.no_grad()
def evaluate_vqa(
    task: Answerer, data: TextImageSet[QuestionRecord], config: RunConfig, device: torch.device, options: EvaluationOptions
) -> Scores:
    """`accuracy` and the share of questions answerable from the list, in per cent, if answers are known; counts; answers by id.

    Raises:
        UserError: the list of answers cannot be ranked.
    """
    tokenizer = CaptionTokenizer.for_answers(config.evaluation_data)
    answers = [] if options.generate else answer_list(config)
    rows = candidate_ids(answers, tokenizer, "data.answer_list") if answers else []
    k_test: int = getattr(config.task, "k_test", len(answers))
    answer_ids, answer_mask = (part.to(device) for part in pad_ids(rows))

    def compute(chosen: Tensor) -> tuple[Tensor, ...]:
        batch = data.batch(chosen.tolist()).to(device)
        fused, mask = task.fuse_question(batch, momentum=options.momentum), batch.token_mask
        if answers:
            best, _ = task.rank_answers(fused, mask, answer_ids, answer_mask, k_test, momentum=options.momentum)
            return (best[:, 0],)
        ends = {"start_id": tokenizer.cls_id, "end_id": tokenizer.sep_id, "max_tokens": MOST_GENERATED}
        tokens = task.generate(fused, mask, **ends, momentum=options.momentum)
        return (torch.nn.functional.pad(tokens, (0, MOST_GENERATED - tokens.shape[1])),)

    with eval_mode(task):
        [found] = map_rows(len(data), config.train.micro_batch_size, compute, device, partial(options.progress, "questions"))
    texts = [answers[row] for row in found.tolist()] if answers else [_text(tokenizer, row) for row in found.tolist()]
    judged = [(record, text) for record, text in zip(data.records, texts, strict=True) if record.humans]
    metrics = {}
    if judged:
        metrics["vqa/accuracy"] = 100.0 * sum(official_accuracy(text, record.humans) for record, text in judged) / len(judged)
    if judged and answers:
        known = {normalize_answer(answer) for answer in answers}
        covered = sum(any(normalize_answer(human) in known for human in record.humans) for record, _ in judged)
        metrics["vqa/answers_in_list"] = 100.0 * covered / len(judged)
    counts = {"num_questions": len(data), "num_judged": len(judged), "num_answers": len(answers)}
    metrics |= {f"vqa/{name}": float(count) for name, count in counts.items()}
    predictions = {record.question_id: text for record, text in zip(data.records, texts, strict=True)}
    return Scores(metrics, predictions, {"answers": "generated"} if options.generate else {"k_test": k_test})


def check_answer_list(config: RunConfig) -> None:
    """Raises `UserError` if the answers of `data.answer_list` cannot be ranked."""
    candidate_ids(answer_list(config), CaptionTokenizer.for_answers(config.evaluation_data), "data.answer_list")


def answer_list(config: RunConfig) -> list[str]:
    """The answers to rank. Raises `UserError` if `data.answer_list` cannot be used."""
    if not config.data.answer_list:
        raise ConfigError("data.answer_list is empty: give the JSON list of answers to rank, which `albef-ds answers` writes")
    return read_answer_list(Path(config.data.answer_list))


def _text(tokenizer: CaptionTokenizer, ids: list[int]) -> str:
    """Joins word pieces; those that begin with `##` continue a word."""
    return " ".join(tokenizer.decode([i for i in ids if i])).replace(" ##", "")
