"""Token ids of the candidate answers that VQA ranks."""

from __future__ import annotations

from collections.abc import Sequence

from numpy import int64
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.common.notices import notice
from albef_ds.data.text.tokenizer import CaptionTokenizer


def candidate_ids(answers: Sequence[str], tokenizer: CaptionTokenizer, source: str) -> list[NDArray[int64]]:
    """Returns the ids of each answer, int64 (L,), [CLS] first; says once which answers have the same ids and so rank alike.

    Args:
        answers: texts, as in a list that `albef-ds answers` writes.
        tokenizer: of answers.
        source: where they come from, for messages.

    Raises:
        DataError: there is no answer, or one has no tokens.
    """
    if not answers:
        raise DataError(f"{source} has no answer: give one or more")
    rows = [tokenizer.encode(answer) for answer in answers]
    first: dict[bytes, str] = {}
    alike = []
    for answer, row in zip(answers, rows, strict=True):
        if len(row) < 2:
            raise DataError(f"answer {answer!r} of {source} has no tokens: remove it")
        if (other := first.setdefault(row.tobytes(), answer)) != answer:
            alike.append(f"{other!r} and {answer!r}")
    if alike:
        more = f" (and {len(alike) - 1} more pairs)" if len(alike) > 1 else ""
        notice(f"answers {alike[0]}{more} of {source} have the same tokens for this model, so only the first can be chosen")
    return rows
