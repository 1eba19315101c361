"""Named zero-shot protocols: the training data that a model must and must not have seen for a score of that name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from albef_ds.common.errors import ConfigError
from albef_ds.config.data import RELEASED_LIMITS
from albef_ds.config.schema import RunConfig
from albef_ds.config.tasks import ContrastiveConfig
from albef_ds.evaluation.trained_on import recipes_in
from albef_ds.tasks.registry import kind_of


@dataclass(frozen=True)
class Protocol:
    """One protocol. `needs` and `forbids` are recipes; `paper` is the figure that the paper reports."""

    data: str
    needs: tuple[str, ...]
    forbids: tuple[str, ...]
    k_test: int
    paper: str


PROTOCOLS: dict[str, Protocol] = {
    "flickr30k_zero_shot": Protocol(
        "Flickr30K test (Karpathy), 1,000 images",
        ("retrieval_coco",),
        ("retrieval_flickr",),
        128,
        "R@1 90.5 / 76.8 (4M), of the model fine-tuned on COCO",
    ),
    "flickr30k_pretrained": Protocol(
        "Flickr30K test (Karpathy), 1,000 images",
        (),
        ("retrieval_flickr", "retrieval_coco"),
        128,
        "R@1 84.9 / 68.18 (4M), of the pretraining checkpoint",
    ),
    "coco_pretrained": Protocol(
        "COCO test (Karpathy), 5,000 images", (), ("retrieval_coco", "retrieval_flickr"), 256, "not reported"
    ),
}
"""Every protocol by name."""


def as_released(config: RunConfig) -> RunConfig:
    """`config` with texts cut and candidates ordered by ITM as in the released code's retrieval evaluation."""
    limits = RELEASED_LIMITS["retrieval"]
    data = replace(config.data, eval_max_words=limits.eval_max_words, eval_max_tokens=limits.eval_max_tokens)
    task = replace(config.task, itm_score="match") if isinstance(config.task, ContrastiveConfig) else config.task
    return replace(config, data=data, task=task)


def check_protocol(name: str, config: RunConfig, lineage: list[dict[str, Any]]) -> Protocol:
    """The protocol `name`, if a model trained as `lineage` says may be scored under it.

    Raises:
        ConfigError: the name is unknown, the model cannot retrieve, or the protocol excludes its training.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name}: choose one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if "match" not in kind_of(config.task).uses:
        raise ConfigError(f"protocol {name} is for retrieval, but the model's task is {config.task.kind}: give a retrieval model")
    recipes = recipes_in(lineage)
    for needed in protocol.needs:
        if needed not in recipes:
            behind = " > ".join(recipes) or "unknown"
            raise ConfigError(
                f"protocol {name} needs a model fine-tuned with {needed}, but this one's lineage is {behind}: fine-tune with "
                f"the recipe {needed} first, or use the protocol flickr30k_pretrained"
            )
    for forbidden in protocol.forbids:
        if forbidden in recipes:
            raise ConfigError(
                f"protocol {name} excludes models trained with {forbidden}, which this one was: it is not zero-shot"
            )
    return protocol
