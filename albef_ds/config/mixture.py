"""The setting `data.mixture`: several corpora with their shares, captions and quality thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from albef_ds.common.errors import ConfigError
from albef_ds.config.fields import require

Captions = Literal["random", "first", "longest", "shortest"]
_FORM = "write NAME=CORPUS,weight=3;NAME=CORPUS,weight=1 (docs/object_stores.md)"


@dataclass(frozen=True)
class CorpusShare:
    """One corpus of a mixture."""

    name: str
    shards: str
    """A folder or a URL."""
    weight: float = 0.0
    """Share of the samples, relative to the weights of the others; 0: not given."""
    samples: int = 0
    """Samples of one epoch of the mixture; 0: not given."""
    captions: Captions = "random"
    """The caption that is taken of several."""
    minimum: Mapping[str, float] = field(default_factory=dict)
    """Field of a sample's JSON -> smallest value with which the sample is used; a sample without the field is left out."""


def parse_mixture(text: str) -> tuple[CorpusShare, ...]:
    """Returns the corpora in `data.mixture`; none for an empty text. Raises `ConfigError`, which names the corpus."""
    shares = tuple(_entry(part.strip()) for part in text.split(";") if part.strip())
    names = [share.name for share in shares]
    require(len(set(names)) == len(names), "data.mixture", "names a corpus twice", "give each a name of its own")
    given = {bool(share.weight) + 2 * bool(share.samples) for share in shares}
    require(len(given) <= 1, "data.mixture", "has weights and sample counts", "give all the same, or neither")
    return shares


def _entry(text: str) -> CorpusShare:
    head, *options = text.split(",")
    name, equals, shards = head.partition("=")
    require(bool(equals and shards) and name.isidentifier(), "data.mixture", "has an entry that is not NAME=CORPUS", _FORM)
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = option.strip().partition("=")
        require(bool(equals and value) and key not in values, f"data.mixture {name}", f"has {option}", _FORM)
        values[key] = value
    captions = values.pop("captions", "random")
    one_of = f"give one of {', '.join(get_args(Captions))}"
    require(captions in get_args(Captions), f"data.mixture {name}", f"captions={captions} is unknown", one_of)
    weight, samples = (_number(name, key, values.pop(key, "")) for key in ("weight", "samples"))
    minimum = {key[4:]: _number(name, key, values.pop(key)) for key in list(values) if key.startswith("min.") and len(key) > 4}
    require(not values, f"data.mixture {name}", f"has unknown {', '.join(values)}", "give weight, samples, captions or min.FIELD")
    require(min(weight, samples) >= 0, f"data.mixture {name}", "has a negative share", "give a number above 0")
    return CorpusShare(name, shards, weight, int(samples), cast(Captions, captions), minimum)


def _number(name: str, key: str, text: str) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (text and value == 0 and not key.startswith("min.")):
        raise ConfigError(f"data.mixture {name} {key}={text} is not a number above 0: {_FORM}")
    return value
