"""Recipes: functions that return a complete `RunConfig`, each documented with its figure, its hours and its command.

A recipe names no path of data or weights; those are given on the command line (`data.shards=...`). Recipes import
the configuration only, so listing them is instant.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from albef_ds.common.errors import ConfigError
from albef_ds.config.recipes.debug import debug
from albef_ds.config.recipes.demo_emoji import demo_emoji
from albef_ds.config.recipes.finetune import (
    grounding_refcoco,
    nlvr,
    nlvr_pretrain,
    retrieval_coco,
    retrieval_flickr,
    snli_ve,
    vqa,
)
from albef_ds.config.recipes.pretrain import pretrain_4m, pretrain_14m
from albef_ds.config.recipes.scale import pretrain_huge, pretrain_large
from albef_ds.config.recipes.scenes import (
    scenes_entailment,
    scenes_grounding,
    scenes_nlvr,
    scenes_nlvr_pretrain,
    scenes_pretrain,
    scenes_retrieval,
    scenes_vqa,
)
from albef_ds.config.schema import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "debug": debug,
    "demo_emoji": demo_emoji,
    "pretrain_4m": pretrain_4m,
    "pretrain_14m": pretrain_14m,
    "pretrain_large": pretrain_large,
    "pretrain_huge": pretrain_huge,
    "retrieval_flickr": retrieval_flickr,
    "retrieval_coco": retrieval_coco,
    "vqa": vqa,
    "nlvr_pretrain": nlvr_pretrain,
    "nlvr": nlvr,
    "snli_ve": snli_ve,
    "grounding_refcoco": grounding_refcoco,
    "scenes_pretrain": scenes_pretrain,
    "scenes_retrieval": scenes_retrieval,
    "scenes_vqa": scenes_vqa,
    "scenes_nlvr_pretrain": scenes_nlvr_pretrain,
    "scenes_nlvr": scenes_nlvr,
    "scenes_entailment": scenes_entailment,
    "scenes_grounding": scenes_grounding,
}
"""Every recipe by its name."""


def get_recipe(name: str) -> RunConfig:
    """The configuration of recipe `name`. Raises `ConfigError` with the nearest name for an unknown one."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(RECIPES)}"
        raise ConfigError(f"there is no recipe {name}: {hint}")
    return RECIPES[name]()


def summary(name: str) -> str:
    """The first line of a recipe's documentation."""
    documentation = RECIPES[name].__doc__
    assert documentation is not None, f"recipe {name} has no docstring"
    return documentation.strip().splitlines()[0]
