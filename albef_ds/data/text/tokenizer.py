"""BERT WordPiece from a vocabulary file, without network access, model hub or cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from albef_ds.common.errors import DataError
from albef_ds.common.notices import notice
from albef_ds.config.schema import DataConfig
from albef_ds.data.text.clean import clean_caption, clean_question

DEFAULT_VOCAB = Path(__file__).resolve().parents[2] / "assets" / "bert-base-uncased-vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_KNOWN_WORDS = 200_000  # words whose pieces are cached, about 50 MB
LONGEST_WORD = 100  # characters, as in BERT: a longer word is [UNK]


def read_vocab(path: Path) -> dict[str, int]:
    """Returns token to id; the id is the line number.

    Raises:
        DataError: the file cannot be read, repeats a token, lacks a special token, or [PAD] is not its first line.
    """
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.vocab_file {path} cannot be read ({error}): give a WordPiece vocabulary") from None
    vocab = {token.removesuffix("\r"): number for number, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise DataError(f"data.vocab_file {path} repeats {len(tokens) - len(vocab)} tokens: give each token one line")
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing or vocab["[PAD]"] != 0:
        problem = f"lacks {', '.join(missing)}" if missing else "does not begin with [PAD]"
        raise DataError(f"data.vocab_file {path} {problem}: give a BERT vocabulary, or leave data.vocab_file empty")
    return vocab


class CaptionTokenizer:
    """Maps texts to ids: [CLS] first, [SEP] only with `sep_token` (the released weights saw none), truncated.

    Picklable, for spawned loader workers.

    Args:
        vocab_file: WordPiece vocabulary; empty: bert-base-uncased's.
        max_tokens: ids kept, [CLS] and [SEP] included; 0: all.
        sep_token: end texts with [SEP].
        max_words: words that `read` keeps.
        compat: clean questions as released, and read special tokens that are written as text, such as [SEP], as themselves.
    """

    def __init__(
        self,
        vocab_file: str = "",
        max_tokens: int = 25,
        sep_token: bool = False,
        max_words: int = 30,
        compat: bool = False,
    ) -> None:
        vocab = read_vocab(Path(vocab_file) if vocab_file else DEFAULT_VOCAB)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocab[token] for token in SPECIAL_TOKENS)
        self.vocab_size = len(vocab)
        self.max_tokens = max_tokens
        self.max_words = max_words
        self.sep_token = sep_token
        self.compat = compat
        self._special = {token: [vocab[token]] for token in SPECIAL_TOKENS}
        self.num_cut = 0
        """Texts of which something was left out so far."""
        self._tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
        self._tokenizer.normalizer = BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_config(cls, config: DataConfig) -> CaptionTokenizer:
        """Returns the tokenizer for `config`, a section as `RunConfig.training_data` or `evaluation_data` gives it."""
        return cls(config.vocab_file, config.max_tokens, config.sep_token, config.max_words, config.compat)

    @classmethod
    def for_answers(cls, config: DataConfig) -> CaptionTokenizer:
        """Returns the tokenizer of VQA's answers, which end with [SEP]."""
        return cls(config.vocab_file, config.answer_tokens, sep_token=True, compat=config.compat)

    def read(self, text: str, *, question: bool = False) -> tuple[str, NDArray[np.int64]]:
        """Returns `text`, which may be a `question` of VQA, cleaned and cut to `max_words`, and its ids (`encode`)."""
        whole = clean_question(text) if question and self.compat else clean_caption(text)
        words = whole.split(" ")
        kept = " ".join(words[: self.max_words])
        cut_before = self.num_cut
        ids = self.encode(kept)
        if len(words) > self.max_words:
            self.num_cut = cut_before + 1
        return kept, ids

    def encode(self, caption: str) -> NDArray[np.int64]:
        """Returns the ids of one cleaned caption, int64 (L,), 1 <= L <= max_tokens; L = 1: only [CLS], no text."""
        # Words are tokenised independently, so the pieces of each are cached.
        words = caption.split(" ") if not self.compat else _SPECIAL.sub(r" \g<0> ", caption).split(" ")
        pieces = [piece for word in words for piece in self._pieces(word)]
        tail = [self.sep_id] if self.sep_token and pieces else []
        room = self.max_tokens - 1 - len(tail) if self.max_tokens else len(pieces)
        self.num_cut += len(pieces) > room
        return np.array([self.cls_id, *pieces[:room], *tail], np.int64)

    def say_cut(self, total: int) -> None:
        """Shows once how many of `total` texts of an evaluation were cut, if any."""
        if self.num_cut:
            notice(
                f"{self.num_cut} of {total} texts have more than {self.max_words} words or {self.max_tokens} tokens and are cut: "
                "data.eval_max_words and data.eval_max_tokens are the limits"
            )

    def _pieces(self, word: str) -> list[int]:
        pieces = self._known.get(word)
        if pieces is None and self.compat:
            pieces = self._special.get(word)
        if pieces is None:
            pieces = self._tokenizer.encode(word, add_special_tokens=False).ids
            if len(self._known) < _KNOWN_WORDS:
                self._known[word] = pieces
        return pieces

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Returns the tokens of `ids`, as text."""
        return [self._tokenizer.id_to_token(int(i)) or "[UNK]" for i in ids]

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns ids and mask of cleaned captions: int64 (B, L) padded with 0, bool (B, L) true at tokens, L the longest."""
        return pad_ids([self.encode(caption) for caption in captions])


def pad_ids(rows: Sequence[NDArray[np.int64]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Returns rows of different lengths as int64 (B, L) padded with `fill`, and the mask bool (B, L), false at padding."""
    longest = max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), longest), fill, np.int64)
    mask = np.zeros((len(rows), longest), np.bool_)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)
