"""Recipes: functions that return a complete `RunConfig`, each documented with its expected score, its hours and its command.

A recipe contains no path of data or weights; those are given on the command line (`data.shards=...`). Recipes import the
configuration only, so listing them is fast.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from albef_ds.common.errors import ConfigError
from albef_ds.config.recipes import finetune, pretrain, scale, scenes
from albef_ds.config.recipes.debug import debug
from albef_ds.config.recipes.demo_emoji import demo_emoji
from albef_ds.config.schema import RunConfig

_ALL = (debug, demo_emoji, *pretrain.RECIPES, *scale.RECIPES, *finetune.RECIPES, *scenes.RECIPES)
RECIPES: dict[str, Callable[[], RunConfig]] = {recipe.__name__: recipe for recipe in _ALL}
"""Every recipe by its name."""


def get_recipe(name: str) -> RunConfig:
    """Returns the configuration of recipe `name`. Raises `ConfigError` with the nearest name for an unknown one."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(RECIPES)}"
        raise ConfigError(f"there is no recipe {name}: {hint}")
    return RECIPES[name]()


def summary(name: str) -> str:
    """Returns the first line of a recipe's documentation."""
    documentation = RECIPES[name].__doc__
    assert documentation is not None, f"recipe {name} has no docstring"
    return documentation.strip().splitlines()[0]
