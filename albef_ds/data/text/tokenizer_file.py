"""The tokenizer as a file for other programs (library `tokenizers`): it cleans, cuts and numbers texts as the model read them.

`CaptionTokenizer` is what this package uses; tests compare both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase, Replace, Sequence, Strip
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from albef_ds.config.schema import DataConfig
from albef_ds.data.text.clean import REMOVED
from albef_ds.data.text.tokenizer import DEFAULT_VOCAB, LONGEST_WORD, read_vocab

TOKENIZER_NAME, SETTINGS_NAME = "tokenizer.json", "tokenizer_config.json"
CLEANING = f"lower case; {REMOVED} removed; - and / replaced by spaces; <person> replaced by person; runs of spaces collapsed"
"""What happens to a text first (`clean_caption`)."""


def as_file(config: DataConfig) -> Tokenizer:
    """Returns the tokenizer for `config`, a section as `RunConfig.evaluation_data` gives it."""
    vocab = read_vocab(Path(config.vocab_file) if config.vocab_file else DEFAULT_VOCAB)
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    steps = [
        Lowercase(),
        Replace(Regex(f"[{_escaped(REMOVED)}]"), ""),
        Replace(Regex("[-/]"), " "),
        Replace("<person>", "person"),
        Replace(Regex(r"\s{2,}"), " "),
        Strip(),
        Replace(Regex(rf"\A(?:[^ ]+ ){{{config.max_words - 1}}}[^ ]+\K [\s\S]*\z"), ""),
        BertNormalizer(lowercase=True),
    ]
    tokenizer.normalizer = Sequence(steps)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    special = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    end = " [SEP]" if config.sep_token else ""
    tokenizer.post_processor = TemplateProcessing(single=f"[CLS] $A{end}", special_tokens=special)
    if config.max_tokens:
        tokenizer.enable_truncation(config.max_tokens)
    return tokenizer


def settings(config: DataConfig) -> dict[str, Any]:
    """Returns the content of `SETTINGS_NAME`, with which transformers' `AutoTokenizer` opens the file."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "split_special_tokens": True,
        **({"model_max_length": config.max_tokens} if config.max_tokens else {}),
        "cleaning": CLEANING,
        "max_words": config.max_words,
    }


def _escaped(characters: str) -> str:
    return "".join(f"\\{character}" for character in characters)
