"""BERT WordPiece over a vocabulary file. Never touches the network, and needs neither a model hub nor a cache."""

from __future__ import annotations

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
from albef_ds.config.schema import DataConfig

DEFAULT_VOCAB = Path(__file__).resolve().parents[2] / "assets" / "bert-base-uncased-vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_KNOWN_WORDS = 200_000  # whose pieces are kept, about 50 MB
_LONGEST_WORD = 100  # characters, as in BERT: a longer word is [UNK]


def read_vocab(path: Path) -> dict[str, int]:
    """Token to id, the id being the line number.

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
    """Cleaned captions to ids: [CLS] first, no [SEP] unless `sep_token` (the released weights saw none), truncated.

    Picklable, so loader workers may be spawned.
    """

    def __init__(self, vocab_file: str = "", max_tokens: int = 25, sep_token: bool = False) -> None:
        vocab = read_vocab(Path(vocab_file) if vocab_file else DEFAULT_VOCAB)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocab[token] for token in SPECIAL_TOKENS)
        self.vocab_size = len(vocab)
        self.max_tokens = max_tokens
        self.sep_token = sep_token
        self._tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD))
        self._tokenizer.normalizer = BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_config(cls, config: DataConfig) -> CaptionTokenizer:
        """The tokenizer that `config` describes."""
        return cls(config.vocab_file, config.max_tokens, config.sep_token)

    def encode(self, caption: str) -> NDArray[np.int64]:
        """Ids of one cleaned caption, int64 (L,), 1 <= L <= max_tokens; L = 1 is [CLS] alone: nothing was readable."""
        # Words are tokenised apart from each other, so each is only once.
        words = [piece for word in caption.split(" ") for piece in self._pieces(word)]
        tail = [self.sep_id] if self.sep_token and words else []
        return np.array([self.cls_id, *words[: self.max_tokens - 1 - len(tail)], *tail], np.int64)

    def _pieces(self, word: str) -> list[int]:
        pieces = self._known.get(word)
        if pieces is None:
            pieces = self._tokenizer.encode(word, add_special_tokens=False).ids
            if len(self._known) < _KNOWN_WORDS:
                self._known[word] = pieces
        return pieces

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The tokens of `ids`, as text."""
        return [self._tokenizer.id_to_token(int(i)) or "[UNK]" for i in ids]

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of cleaned captions: int64 (B, L) padded with 0, bool (B, L) true at tokens, L the longest."""
        return pad_ids([self.encode(caption) for caption in captions])


def pad_ids(rows: Sequence[NDArray[np.int64]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as one int64 (B, L) tensor filled up with `fill`, and the bool (B, L) mask of what is real."""
    longest = max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), longest), fill, np.int64)
    mask = np.zeros((len(rows), longest), np.bool_)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)
