"""The answer decoder: ranking compared with one answer at a time, generation with its definition, causal attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from albef_ds.config.schema import ComputeConfig, VqaConfig
from albef_ds.models import answers
from albef_ds.models.answers import generate_answers, rank_answers, search_answers
from albef_ds.models.decoder import AnswerDecoder
from albef_ds.tasks.vqa import VqaTask
from tests.tasks.tiny import VOCAB, random_batch, tiny_model

ROWS, CLS, SEP = 3, 1, 2


def _task(**compute: bool) -> VqaTask:
    torch.manual_seed(0)
    task = VqaTask(tiny_model(), ComputeConfig(**compute), VqaConfig(decoder_layers=2))
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    return task.double().eval()


@pytest.fixture(scope="module")
def parts() -> tuple[AnswerDecoder, Tensor, Tensor]:
    """Returns a decoder, and questions of different lengths fused with their images."""
    task, batch = _task(), random_batch(ROWS)
    decoder = task.base["decoder"]
    assert isinstance(decoder, AnswerDecoder)
    with torch.no_grad():
        return decoder, task.fuse_question(batch), batch.token_mask


def _answer_list(count: int) -> tuple[Tensor, Tensor]:
    """Returns answers of one to three words with different first words."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.zeros(count, 5, dtype=torch.int64)
    for row in range(count):
        words = 1 + row % 3
        ids[row, 0], ids[row, 1 + words] = CLS, SEP
        ids[row, 1 : 1 + words] = torch.randint(3, VOCAB, (words,), generator=generator)
    ids[:, 1] = 3 + 2 * torch.arange(count)
    return ids, ids > 0


def _log_probs(decoder: AnswerDecoder, ids: list[int], question: Tensor, mask: Tensor) -> list[float]:
    """Returns the log-probability of each token after the first of one answer, for a question without padding."""
    words = int(mask.sum())
    answer = torch.tensor([ids])
    hidden = decoder.hidden(answer, answer >= 0, question[None, :words], mask[None, :words])
    log_probs = decoder.mlm_head(hidden)[0].log_softmax(dim=-1)
    return [float(log_probs[place, token]) for place, token in enumerate(ids[1:])]


@torch.no_grad()
@pytest.mark.parametrize("k", [4, 9])
def test_ranking_equals_one_answer_at_a_time(
    parts: tuple[AnswerDecoder, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    decoder, questions, mask = parts
    ids, answer_mask = _answer_list(9)
    if k == 9:  # where all are candidates, equal first tokens leave nothing to chance
        ids[4, 1] = ids[3, 1]
    monkeypatch.setattr(answers, "_ROWS", 5)  # chunks that cut through a question's candidates
    best, probs = rank_answers(decoder, questions, mask, ids, answer_mask, k)
    assert best.shape == probs.shape == (ROWS, k)
    for row in range(ROWS):
        scored = []
        for answer in range(9):
            tokens = [token for token in ids[answer].tolist() if token]
            steps = _log_probs(decoder, tokens, questions[row], mask[row])
            scored.append((steps[0], steps[0] + sum(steps), answer))  # the first token counts twice, as released
        candidates = sorted(scored, reverse=True)[:k]
        expected = sorted(candidates, key=lambda one: -one[1])
        assert best[row].tolist() == [answer for *_, answer in expected]
        scores = torch.tensor([score for _, score, _ in expected], dtype=torch.float64)
        torch.testing.assert_close(probs[row], scores.softmax(dim=0))


@torch.no_grad()
def test_answers_of_one_token_are_ranked_by_it_and_every_rank_makes_the_same_calls(
    parts: tuple[AnswerDecoder, Tensor, Tensor],
) -> None:
    ids, answer_mask = _answer_list(9)
    calls: list[int] = []
    with parts[0].mlm_head.register_forward_hook(lambda _, args, __: calls.append(len(args[0]))):
        best, probs = rank_answers(*parts, ids[:, :2], answer_mask[:, :2], 4)
    assert len(calls) == 2 and calls[1] == 0
    for row in range(ROWS):
        first = [_log_probs(parts[0], [CLS, int(ids[answer, 1])], parts[1][row], parts[2][row])[0] for answer in range(9)]
        order = sorted(range(9), key=lambda answer: -first[answer])[:4]
        assert best[row].tolist() == order
        # The first token counts twice, as released.
        expected = torch.tensor([2 * first[answer] for answer in order], dtype=torch.float64).softmax(dim=0)
        torch.testing.assert_close(probs[row], expected)


@torch.no_grad()
def test_only_tokens_that_an_answer_has_and_that_are_asked_for_are_computed(
    parts: tuple[AnswerDecoder, Tensor, Tensor],
) -> None:
    ids, answer_mask = _answer_list(9)
    heads: list[int] = []
    tokens: list[int] = []
    layer = parts[0].encoder.layers[0].feed_forward
    with (
        parts[0].mlm_head.register_forward_hook(lambda _, args, __: heads.append(len(args[0]))),
        layer.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[0])),  # type: ignore[operator]
    ):
        rank_answers(*parts, ids, answer_mask, 9)
    # One, two or three words: [CLS] and the words are read, and the words from the second on and [SEP] are asked for.
    assert tokens[1] == ROWS * 3 * (2 + 3 + 4) and heads == [ROWS, ROWS * 3 * (1 + 2 + 3)]


@torch.no_grad()
def test_a_list_shorter_than_k_is_ranked_whole(parts: tuple[AnswerDecoder, Tensor, Tensor]) -> None:
    ids, answer_mask = _answer_list(3)
    best, probs = rank_answers(*parts, ids, answer_mask, 128)
    assert best.sort(dim=1).values.tolist() == [[0, 1, 2]] * ROWS
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(ROWS, dtype=torch.float64))


@torch.no_grad()
def test_generation_takes_the_most_probable_token_until_the_end(parts: tuple[AnswerDecoder, Tensor, Tensor]) -> None:
    decoder, questions, mask = parts
    free = generate_answers(decoder, questions, mask, start_id=CLS, end_id=-1, max_tokens=4)
    assert free.shape == (ROWS, 4)
    for row in range(ROWS):
        tokens = [CLS]
        for _ in range(4):
            logits = decoder.next_token_logits(torch.tensor([tokens]), questions[row : row + 1], mask[row : row + 1])
            tokens.append(int(logits.argmax()))
        assert free[row].tolist() == tokens[1:]
    end = int(free[0, 1])
    ended = generate_answers(decoder, questions, mask, start_id=CLS, end_id=end, max_tokens=4)
    for row in range(ROWS):
        words = free[row].tolist()
        kept = words[: words.index(end)] if end in words else words
        assert [token for token in ended[row].tolist() if token] == [token for token in kept if token]


@torch.no_grad()
def test_no_token_sees_a_later_one(parts: tuple[AnswerDecoder, Tensor, Tensor]) -> None:
    decoder, questions, mask = parts
    ids, _ = _answer_list(ROWS)
    changed = ids.clone()
    changed[:, 3] = 7
    whole = torch.ones_like(ids, dtype=torch.bool)
    first, second = decoder.hidden(ids, whole, questions, mask), decoder.hidden(changed, whole, questions, mask)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3:], second[:, 3:])


@torch.no_grad()
def test_padding_of_the_question_is_never_looked_at(parts: tuple[AnswerDecoder, Tensor, Tensor]) -> None:
    decoder, questions, mask = parts
    ids, answer_mask = _answer_list(ROWS)
    noisy = torch.where(mask[..., None], questions, torch.full_like(questions, 9.0))
    assert not bool(mask.all())
    torch.testing.assert_close(decoder.hidden(ids, answer_mask, noisy, mask), decoder.hidden(ids, answer_mask, questions, mask))


@torch.no_grad()
def test_beams_find_the_most_probable_answers(parts: tuple[AnswerDecoder, Tensor, Tensor]) -> None:
    """With as many beams as there are texts of two tokens none is left out, and all of them have probability 1."""
    decoder, questions, mask = parts
    row = int(mask.sum(dim=1).argmax())
    question, seen = questions[row : row + 1], mask[row : row + 1]
    found = search_answers(decoder, question, seen, start_id=CLS, end_id=SEP, max_tokens=2, beams=VOCAB**2)
    assert sum(probability for _, probability in found) == pytest.approx(1.0)
    assert [probability for _, probability in found] == sorted((probability for _, probability in found), reverse=True)
    for ids, probability in found[:20]:
        whole = [CLS, *ids, *([SEP] if len(ids) < 2 else [])]
        assert probability == pytest.approx(math.exp(sum(_log_probs(decoder, whole, question[0], seen[0]))))
    assert len(search_answers(decoder, question, seen, start_id=CLS, end_id=SEP, max_tokens=2, beams=3)) == 3


@torch.no_grad()
def test_one_beam_is_the_generated_answer(parts: tuple[AnswerDecoder, Tensor, Tensor]) -> None:
    decoder, questions, mask = parts
    free = generate_answers(decoder, questions, mask, start_id=CLS, end_id=-1, max_tokens=4)
    for end in (-1, int(free[0, 1]), int(free[0, 0])):
        greedy = generate_answers(decoder, questions, mask, start_id=CLS, end_id=end, max_tokens=4).tolist()
        for row in range(ROWS):
            one = slice(row, row + 1)
            [(ids, _)] = search_answers(decoder, questions[one], mask[one], start_id=CLS, end_id=end, max_tokens=4, beams=1)
            assert ids == [token for token in greedy[row] if token]
