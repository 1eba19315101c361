"""Settings of the samples: where they come from, and how texts and images are read.

The released code keeps another number of words and tokens in each task, and in training another than in evaluation: the table is
`RELEASED_LIMITS`. Recipes and released files take theirs from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from albef_ds.common.urls import has_credentials, is_corpus_url
from albef_ds.config.fields import not_negative, positive, require, setting, share
from albef_ds.config.mixture import parse_mixture


class TextLimits(NamedTuple):
    """Words and tokens kept of a text, under the names of the settings."""

    max_words: int
    max_tokens: int
    eval_max_words: int
    eval_max_tokens: int


RELEASED_LIMITS: dict[str, TextLimits] = {
    "pretrain": TextLimits(30, 25, 30, 30),  # evaluated as retrieval
    "text_assignment": TextLimits(30, 25, 30, 25),
    "retrieval": TextLimits(30, 0, 30, 30),
    "grounding": TextLimits(30, 0, 30, 0),
    "classification": TextLimits(30, 0, 30, 0),  # visual entailment and NLVR2
    "vqa": TextLimits(30, 25, 50, 0),  # questions; answers are never cut
}
"""Limits of the released code, by `task.kind` and for grounding, which is trained as retrieval; 0: all tokens.

Source: `max_words` of the datasets, and `max_length` and `truncation` in the calls of the tokenizer (b9727e4)."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sources and preprocessing of samples."""

    shards: str = setting(
        "", "corpus: a folder or URL (s3, gs, az, https, hf) with manifest.json; or a tar / brace pattern / URL read without it"
    )
    mixture: str = setting(
        "", "corpora to mix instead of data.shards: NAME=CORPUS,weight=3;NAME=CORPUS,weight=1 (docs/object_stores.md)"
    )
    eval_shards: str = setting("", "shards of the retrieval evaluation during training, given like data.shards; empty: none")
    group_size: int = setting(
        1,
        "samples that stay together in the order, as hard negatives: consecutive ones of the corpus, or similar ones by "
        "data.group_order; a divisor of train.micro_batch_size keeps every group in one micro-batch",
        unit="samples",
    )
    group_order: str = setting(
        "", "name of an order of similar pairs beside the manifest (`albef-data group`), by which groups are formed; empty: none"
    )
    group_window: int = setting(
        16_384, "samples, drawn anew in every epoch, among which similar ones are grouped by data.group_order", unit="samples"
    )
    annotations: str = setting(
        "", "annotation files of a fine-tuning task, comma-separated (an official VQA pair as QUESTIONS+ANSWERS); replaces shards"
    )
    eval_annotations: str = setting("", "annotation files of the validation split, scored during training to choose a checkpoint")
    test_annotations: str = setting(
        "", "annotation files of the test splits, NAME=FILE or FILE; scored by `albef-ds evaluate` only"
    )
    image_root: str = setting("", "folder that image paths in annotation files are relative to")
    vg_root: str = setting("", "folder of Visual Genome's images in VQA; empty: image_root")
    answer_list: str = setting("", "JSON list of the answers that VQA ranks (`albef-ds answers` makes one)")
    refs: str = setting(
        "", "JSON list {ref_id, ann_id, image_id, split} of referring expressions; if given, grounding is evaluated"
    )
    instances: str = setting("", "COCO's instances JSON with the boxes of the referring expressions")
    detections: str = setting("", "a detector's boxes per image, as the released dets.json; empty: none")
    cache: str = setting("", "folder on a node's disk for shards of object stores; empty: in ALBEF_SCRATCH, else in /tmp")
    cache_gb: float = setting(20.0, "most that the cache holds, unfinished files included", unit="GB")
    fetch_ahead: int = setting(64, "samples per loader process that are requested from an object store ahead", unit="samples")
    window: int = setting(
        1 << 20, "samples shuffled together; with fewer, the shards of a window fit data.cache_gb", unit="samples"
    )
    num_workers: int = setting(4, "loader processes per rank; 0 loads in the training process", unit="processes")
    prefetch: int = setting(2, "batches each worker keeps ready", unit="batches")
    max_words: int = setting(
        30, "words of a text kept in training, before tokenisation", unit="words", paper="30 (released code)"
    )
    max_tokens: int = setting(
        25, "tokens of a text kept in training, [CLS] included; 0: all", unit="tokens", paper="25 (released code)"
    )
    eval_max_words: int = setting(
        -1,
        "words of a text kept in evaluation and use of the model; -1: data.max_words",
        unit="words",
        paper="30, VQA 50 (released code)",
    )
    eval_max_tokens: int = setting(
        -1,
        "tokens of a text kept in evaluation and use of the model; 0: all; -1: data.max_tokens",
        unit="tokens",
        paper="30 in retrieval, else all (released code)",
    )
    sep_token: bool = setting(
        False, "end a caption with [SEP], unlike the released weights' training", paper="no (released code)"
    )
    vocab_file: str = setting("", "WordPiece vocabulary; empty: the bert-base-uncased list in this package")
    mlm_probability: float = setting(0.15, "share of tokens chosen for MLM", paper="0.15")
    crop_scale_min: float = setting(
        0.2, "smallest area share of a random crop; 1: always the whole image", paper="0.2, 0.5 fine-tuned (released code)"
    )
    flip: bool = setting(
        True, "mirror half of the images (captions that say left or right become wrong)", paper="yes (released code)"
    )
    rand_augment: bool = setting(True, "RandAugment(2, 7) without colour changes", paper="yes")
    jpeg_device: Literal["cpu", "cuda"] = setting(
        "cpu", "device on which loader processes decode JPEGs; cuda: nvJPEG, about 500 MB of GPU memory per process"
    )
    augment_device: Literal["cpu", "model"] = setting(
        "cpu", "place to resize, flip and augment crops; cpu: loader processes; model: the model's device, whole batches"
    )
    compat: bool = setting(
        False,
        "read images and texts as the released code does where it differs (docs/architecture.md lists the points); "
        "task.compat=true implies it",
    )
    max_pixels: int = setting(89_478_485, "largest image; a larger one counts as a broken sample", unit="pixels")
    max_broken: float = setting(0.01, "share of broken samples above which a run stops")

    def __post_init__(self) -> None:
        positive("data", self, "group_size", "prefetch", "max_words", "max_pixels", "crop_scale_min", "cache_gb", "window")
        positive("data", self, "group_window")
        grouped = self.group_size > 1 or not self.group_order
        require(grouped, "data.group_order", "has groups of one sample", "give data.group_size, such as the micro-batch size")
        not_negative("data", self, "num_workers", "fetch_ahead")
        mixed = parse_mixture(self.mixture)
        require(not (mixed and self.shards), "data.shards", "is given beside data.mixture", "give one of them")
        urls = [("shards", self.shards), ("eval_shards", self.eval_shards), *(("mixture", corpus.shards) for corpus in mixed)]
        for name, url in urls:
            public = not is_corpus_url(url) or not has_credentials(url)
            fix = "put credentials into the environment: settings are stored with a run"
            require(public, f"data.{name}", "holds a user, a password or a query", fix)
        words, tokens = self.eval_max_words, self.eval_max_tokens
        enough = "give at least 2 ([CLS] and one word), or 0 for all"
        require(self.max_tokens == 0 or self.max_tokens >= 2, "data.max_tokens", f"is {self.max_tokens}", enough)
        require(tokens in (-1, 0) or tokens >= 2, "data.eval_max_tokens", f"is {tokens}", f"{enough}, or -1 for data.max_tokens")
        require(words == -1 or words > 0, "data.eval_max_words", f"is {words}", "give a number above 0, or -1 for data.max_words")
        share("data", self, "mlm_probability", "max_broken", "crop_scale_min")

    @property
    def corpora(self) -> list[str]:
        """The corpora that training reads, folders or URLs: those of the mixture, or `shards`."""
        return [corpus.shards for corpus in parse_mixture(self.mixture)] or ([self.shards] if self.shards else [])

    @property
    def answer_tokens(self) -> int:
        """Tokens of an answer that are kept, [CLS] and [SEP] included; 0: all. The released code never cuts answers."""
        limits = [self.max_tokens, self.max_tokens if self.eval_max_tokens == -1 else self.eval_max_tokens]
        return 0 if 0 in limits else max(limits)

    def in_training(self, longest: int, compat: bool = False) -> DataConfig:
        """Returns a copy whose limits are numbers of at most `longest` tokens, the length of the position table.

        Its `compat` is true if `compat`, that of the task, is.
        """
        eval_words, eval_tokens = self.eval_max_words, self.eval_max_tokens
        return replace(
            self,
            compat=self.compat or compat,
            max_tokens=min(self.max_tokens or longest, longest),
            eval_max_words=self.max_words if eval_words == -1 else eval_words,
            eval_max_tokens=min((self.max_tokens if eval_tokens == -1 else eval_tokens) or longest, longest),
        )

    def in_evaluation(self, longest: int, compat: bool = False) -> DataConfig:
        """Returns the copy of `in_training` whose `max_words` and `max_tokens` are those of evaluation."""
        limits = self.in_training(longest, compat)
        return replace(limits, max_words=limits.eval_max_words, max_tokens=limits.eval_max_tokens)
