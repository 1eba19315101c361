"""Settings of the stages, set on the command line and stored in each stage's folder. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from albef_ds.common.errors import ConfigError

CHUNK_ROWS = 10_000
"""Images per chunk of the catalog, and so per task of the scan."""
MAX_PIXELS = 89_478_485
"""Default limit of width x height, as in Pillow: a larger image counts as a decompression bomb."""
SeveralCaptions = Literal["all", "best", "drop"]


def _rule(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class FilterConfig:
    """Limits of the filter rules; the defaults drop only what cannot be read."""

    min_side: int = _rule(0, "shorter side at least this many pixels")
    max_aspect: float = _rule(0.0, "longer over shorter side at most this; 0: no limit")
    min_words: int = _rule(1, "words in a caption, at least")
    max_words: int = _rule(0, "words in a caption, at most; 0: no limit")
    max_chars: int = _rule(0, "characters in a caption, at most; 0: no limit")
    max_digits: float = _rule(1.0, "share of digits among a caption's characters, at most")
    max_punctuation: float = _rule(1.0, "share of characters that are neither letter, digit nor space, at most")
    max_repeated: float = _rule(1.0, "share of words that occurred before in the same caption, at most")
    max_pictures: int = _rule(0, "a caption on more different images than this is boilerplate; 0: no limit")
    scripts: tuple[str, ...] = _rule((), "scripts a caption may be written in, such as latin; empty: any")
    features: str = _rule("embed", "folder of `albef-data embed` beside each source corpus, for the rules below")
    min_itm: float = _rule(0.0, "probability by ITM that image and caption match, at least")
    min_itc: float = _rule(-1.0, "similarity of image and caption by ITC, at least")
    lowest_itm: float = _rule(0.0, "share of the captions, those with the lowest ITM probability, that is dropped")
    lowest_itc: float = _rule(0.0, "share of the captions, those with the lowest ITC similarity, that is dropped")
    clusters: int = _rule(0, "clusters of similar images, within each of which these two shares are taken; 0: over all")

    def __post_init__(self) -> None:
        for name in ("min_side", "max_aspect", "min_words", "max_words", "max_chars", "max_pictures", "clusters"):
            if getattr(self, name) < 0:
                raise ConfigError(f"filter {name} is {getattr(self, name)}: give 0 or more")
        for name in ("max_digits", "max_punctuation", "max_repeated", "min_itm", "lowest_itm", "lowest_itc"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"filter {name} is {getattr(self, name)}: give a share from 0 to 1")
        if not -1 <= self.min_itc <= 1:
            raise ConfigError(f"filter min_itc is {self.min_itc}: give a similarity from -1 to 1")

    @property
    def uses_model(self) -> bool:
        """True if a rule needs the scores of a model."""
        return self.min_itm > 0 or self.min_itc > -1 or self.lowest_itm > 0 or self.lowest_itc > 0

    def with_settings(self, settings: Mapping[str, str]) -> FilterConfig:
        """A copy changed by NAME=VALUE texts of the command line. Raises ConfigError for an unknown name or a wrong type."""
        known: dict[str, Any] = {f.name: f.default for f in fields(self)}
        changes: dict[str, Any] = {}
        for name, text in settings.items():
            if name not in known:
                raise ConfigError(f"filter {name} is unknown: use {', '.join(known)}")
            kind = type(known[name])
            try:
                changes[name] = tuple(filter(None, text.split("+"))) if kind is tuple else kind(text)
            except ValueError:
                raise ConfigError(f"filter {name}={text} is not a number: give one, such as {name}={known[name]}") from None
        return replace(self, **changes)


PRESETS: dict[str, tuple[FilterConfig, str]] = {
    "none": (FilterConfig(), "drop only what is missing or broken"),
    "albef-paper": (FilterConfig(min_words=0), "what the paper trained on: every pair whose image can be read"),
    "cc12m": (
        FilterConfig(
            min_side=256,
            max_aspect=2.5,
            min_words=3,
            max_words=256,
            max_digits=0.5,
            max_punctuation=0.5,
            max_repeated=0.5,
            max_pictures=10,
        ),
        "in the spirit of CC12M (Changpinyo et al. 2021): 256 pixels, aspect 2.5, 3 to 256 words, no boilerplate",
    ),
}


@dataclass(frozen=True)
class DedupConfig:
    """Limits of image and caption duplicates, and what happens to captions."""

    radius: int = 3
    """Most bits of 64 in which near-duplicate images differ; -1: only equal bytes and pixels count."""
    tolerance: int = 24
    """Largest difference, of 255, of any mean colour of 8 x 8 fields."""
    min_variance: float = 25.0
    """Grey-level variance below which an image is flat and only bytes and pixels are compared."""
    several_captions: SeveralCaptions = "all"
    """For an image listed several times: keep all captions, keep the best one, or drop the image if its captions differ."""
    max_pictures_per_caption: int = 0
    """Most images, best first, that keep a caption (with its near-duplicates); 0: no limit."""
    jaccard: float = 0.7
    """Least Jaccard similarity, over words and word pairs, of near-duplicate captions; 1: only equal words; 0: off."""
    embeddings: str = ""
    """Images with similar features are duplicates too. A `.npy` file with features of all catalog rows, or the name of the folder
    that `albef-data embed` wrote beside each source corpus. Empty: not compared."""
    cosine: float = 0.95
    """Least cosine similarity of such features."""

    def __post_init__(self) -> None:
        if not -1 <= self.radius <= 16:
            raise ConfigError(f"dedup radius is {self.radius}: give -1 (off) or 0 to 16 bits")
        if not 0 <= self.tolerance <= 255:
            raise ConfigError(f"dedup tolerance is {self.tolerance}: give 0 to 255")
        if not 0 < self.cosine <= 1:
            raise ConfigError(f"dedup cosine is {self.cosine}: give a similarity above 0, at most 1")
        if not 0 <= self.jaccard <= 1:
            raise ConfigError(f"dedup jaccard is {self.jaccard}: give a similarity up to 1, or 0 to leave captions alone")
        if self.several_captions not in get_args(SeveralCaptions):
            raise ConfigError(f"dedup several-captions is {self.several_captions!r}: use {', '.join(get_args(SeveralCaptions))}")
        if self.max_pictures_per_caption < 0:
            raise ConfigError(f"dedup max-pictures-per-caption is {self.max_pictures_per_caption}: give 0 (no limit) or more")


@dataclass(frozen=True)
class DecontaminateConfig:
    """Limits of the similarity between training and evaluation images; wider than for duplicates, because a miss costs more."""

    radius: int = 6
    """Most bits of 64 in which perceptual hashes differ; -1: only equal bytes, pixels and ids count."""
    tolerance: int = 40
    """Largest difference, of 255, of any mean colour of 8 x 8 fields."""
    min_variance: float = 25.0
    """Grey-level variance below which an image is flat and only bytes and pixels are compared."""

    def __post_init__(self) -> None:
        if not -1 <= self.radius <= 16:
            raise ConfigError(f"decontaminate radius is {self.radius}: give -1 (off) or 0 to 16 bits")
        if not 0 <= self.tolerance <= 255:
            raise ConfigError(f"decontaminate tolerance is {self.tolerance}: give 0 to 255")


@dataclass(frozen=True)
class PlanConfig:
    """Order and size of shards."""

    seed: int = 0
    """Seed of the permutation."""
    samples_per_shard: int = 0
    """Most samples per shard; all shards get the same number, give or take one. 0: use `shard_bytes`."""
    shard_bytes: int = 0
    """Approximate size of every shard. 0: use `samples_per_shard`."""
    first_shard: int = 0
    """Number of the first shard; above 0 when samples are added to a corpus."""
    first_sample: int = 0
    """Number of the first sample, likewise."""
    shuffle: bool = True
    """Permute samples; otherwise they stay in listed order, which suits galleries, not training."""
    even: bool = True
    """Make shards even; otherwise each holds `samples_per_shard` samples and the last the rest."""

    def __post_init__(self) -> None:
        if (self.samples_per_shard > 0) == (self.shard_bytes > 0) or min(self.samples_per_shard, self.shard_bytes) < 0:
            raise ConfigError("shard size is not clear: give one of samples_per_shard and shard_bytes, above 0")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}: give 0 or more")


@dataclass(frozen=True)
class ResizeConfig:
    """Scaling of large images."""

    max_side: int = 0
    """Images with a longer side are scaled down to this many pixels; 0: bytes stay untouched."""
    quality: int = 92
    """JPEG quality of scaled images."""

    def __post_init__(self) -> None:
        if self.max_side < 0 or not 1 <= self.quality <= 100:
            raise ConfigError(f"max_side {self.max_side}, quality {self.quality}: give 0 or more pixels, a quality from 1 to 100")
