"""Answers from an `AnswerDecoder`, by ranking a closed list or by free generation, without gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.models.decoder import AnswerDecoder
from albef_ds.models.precision import at_least_fp32

PAD = 0
_ROWS = 512
"""Answers per call of the decoder."""


@torch.no_grad()
def rank_answers(
    decoder: AnswerDecoder, question_embeds: Tensor, question_mask: Tensor, answer_ids: Tensor, answer_mask: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Returns the k most probable answers of a list per question, as the released code ranks them.

    Candidates are the k answers whose first token is most probable. Their score is the log-probability of that first token plus
    the log-probability of the full answer, which counts the first token again: the published figures depend on this quirk of the
    released code.

    Args:
        decoder: in eval mode.
        question_embeds: (B, L, D), fused with their images.
        question_mask: bool (B, L).
        answer_ids: int64 (N, La), the list, [CLS] first, padded with 0.
        answer_mask: bool (N, La).
        k: number of candidates, at most N.

    Returns:
        int64 (B, k) rows of the list, best first, and their probabilities (B, k) among these k candidates.
    """
    k = min(k, answer_ids.shape[0])
    batch = question_embeds.shape[0]
    start = answer_ids[:1, :1].expand(batch, 1)
    logits = at_least_fp32(decoder.next_token_logits(start, question_embeds, question_mask))
    first_probs, candidates = F.softmax(logits, dim=1)[:, answer_ids[:, 1]].topk(k, dim=1)
    # Answers with the same first token have equal probability here: an underflow must not make it -inf for all of them.
    scores = first_probs.clamp(min=torch.finfo(first_probs.dtype).tiny).log().flatten()
    rows = candidates.flatten()
    questions = torch.arange(batch, device=rows.device).repeat_interleave(k)
    # The decoder has computed the first tokens: they depend on the question alone.
    scores = scores + F.log_softmax(logits, dim=1)[questions, answer_ids[rows, 1]]
    scores = scores + torch.cat(
        [
            _later_tokens(decoder, answer_ids[part], answer_mask[part], question_embeds, question_mask, index)
            for part, index in zip(torch.split(rows, _ROWS), torch.split(questions, _ROWS), strict=True)
        ]
    )
    probs, order = F.softmax(scores.view(batch, k), dim=1).topk(k, dim=1)
    return candidates.gather(1, order), probs


def _later_tokens(
    decoder: AnswerDecoder,
    answer_ids: Tensor,
    answer_mask: Tensor,
    question_embeds: Tensor,
    question_mask: Tensor,
    question_index: Tensor,
) -> Tensor:
    """Returns (A,), the sum of log-probabilities over each answer's tokens after the first two; questions are sorted."""
    # Questions without any of these answers need no keys and values.
    used, counts = torch.unique_consecutive(question_index, return_counts=True)
    # What follows the last token is not asked for, and a longer answer in the list costs the others nothing.
    longest = int(answer_mask.sum(dim=1).max())
    ids, read = answer_ids[:, : longest - 1], answer_mask[:, 1:longest]
    hidden = decoder.hidden(ids, read, question_embeds[used], question_mask[used], counts=counts.tolist())[:, 1:]
    wanted = read[:, 1:]
    # Called even without such tokens: every rank enters the collectives of sharded weights.
    log_probs = F.log_softmax(at_least_fp32(decoder.mlm_head(hidden[wanted])), dim=-1)
    chosen = log_probs.gather(1, answer_ids[:, 2:longest][wanted][:, None])[:, 0]
    return chosen.new_zeros(wanted.shape).masked_scatter(wanted, chosen).sum(dim=1)


@torch.no_grad()
def generate_answers(
    decoder: AnswerDecoder, question_embeds: Tensor, question_mask: Tensor, *, start_id: int, end_id: int, max_tokens: int = 10
) -> Tensor:
    """Generates answers greedily, by the most probable token at each step.

    Args:
        decoder: in eval mode.
        question_embeds: (B, L, D), fused with their images.
        question_mask: bool (B, L).
        start_id: [CLS].
        end_id: [SEP], which ends an answer.
        max_tokens: longest answer, without start and end.

    Returns:
        int64 (B, T), T <= max_tokens, without start and end, padded with 0.
    """
    answers = torch.full((question_embeds.shape[0], 1), start_id, dtype=torch.int64, device=question_embeds.device)
    ended = torch.zeros(answers.shape[0], dtype=torch.bool, device=answers.device)
    for _ in range(max_tokens):
        following = decoder.next_token_logits(answers, question_embeds, question_mask).argmax(dim=1)
        ended = ended | (following == end_id)
        if bool(ended.all()):
            break
        answers = torch.cat([answers, torch.where(ended, PAD, following)[:, None]], dim=1)
    return answers[:, 1:]


@torch.no_grad()
def search_answers(
    decoder: AnswerDecoder,
    question_embeds: Tensor,
    question_mask: Tensor,
    *,
    start_id: int,
    end_id: int,
    max_tokens: int,
    beams: int,
) -> list[tuple[list[int], float]]:
    """Finds probable answers to one question by beam search; with one beam, that of `generate_answers`.

    Args:
        decoder: in eval mode.
        question_embeds: (1, L, D), fused with its image.
        question_mask: bool (1, L).
        start_id: [CLS].
        end_id: [SEP], which ends an answer.
        max_tokens: longest answer, without start and end; a longer one is cut there.
        beams: number of unfinished answers that are kept at each step, and of answers returned.

    Returns:
        (ids without start and end, probability) of at most `beams` answers, the most probable first.
    """
    answers = torch.full((1, 1), start_id, dtype=torch.int64, device=question_embeds.device)
    scores = torch.zeros(1, device=answers.device)
    found: list[tuple[list[int], float]] = []
    for length in range(max_tokens + 1):
        rows = len(answers)
        if length == max_tokens:
            found += zip(answers[:, 1:].tolist(), scores.tolist(), strict=True)
            break
        logits = decoder.next_token_logits(answers, question_embeds.expand(rows, -1, -1), question_mask.expand(rows, -1))
        log_probs = F.log_softmax(at_least_fp32(logits), dim=-1)
        best, places = (scores[:, None] + log_probs).flatten().topk(min(2 * beams, rows * log_probs.shape[1]))
        parents, tokens = places // log_probs.shape[1], places % log_probs.shape[1]
        ended = tokens == end_id
        ended[beams:] = False  # an end that is less probable than `beams` other tokens is no answer
        found += zip(answers[parents[ended], 1:].tolist(), best[ended].tolist(), strict=True)
        going = (tokens != end_id).nonzero().flatten()[:beams]
        answers, scores = torch.cat([answers[parents[going]], tokens[going, None]], dim=1), best[going]
        found = sorted(found, key=lambda item: -item[1])[:beams]
        if len(found) == beams and found[-1][1] >= float(scores.max()):
            break
    return [(ids, math.exp(score)) for ids, score in sorted(found, key=lambda item: -item[1])[:beams]]
