"""Recipes."""

from __future__ import annotations

import re

import pytest
import torch

from albef_ds.config.schema import RunConfig
from albef_ds.errors import ConfigError
from albef_ds.models.albef import ALBEF
from albef_ds.recipes import RECIPES, get_recipe, summary


def num_parameters(name: str) -> int:
    """Parameters of the recipe's model, counted without allocating them; heads and the momentum copy left out."""
    config = get_recipe(name)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ALBEF(config.model, config.compute).parameters())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_carries_its_own_name_and_documents_itself(name: str) -> None:
    assert get_recipe(name).recipe == name
    documentation = RECIPES[name].__doc__ or ""
    assert len(summary(name)) <= 120
    for part in ("figure", "hours:", "albef"):
        assert part in documentation.lower()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_command_in_a_recipe_names_that_recipe_and_settings_that_exist(name: str) -> None:
    from albef_ds.config.settings import all_settings

    documentation = RECIPES[name].__doc__ or ""
    assert set(re.findall(r"--recipe (\w+)", documentation)) <= {name}
    assert set(re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+)=", documentation)) <= set(all_settings())


@pytest.mark.parametrize("name", ["pretrain_4m", "pretrain_14m"])
def test_the_papers_recipes_are_the_papers_settings(name: str) -> None:
    config, default = get_recipe(name), RunConfig()
    assert (config.model, config.task, config.optim, config.train) == (default.model, default.task, default.optim, default.train)
    assert (config.model.vision.image_size, config.train.epochs, config.train.global_batch_size) == (256, 30.0, 512)


@pytest.mark.parametrize(("name", "billions"), [("pretrain_4m", 0.21), ("pretrain_large", 0.69), ("pretrain_huge", 1.72)])
def test_models_have_the_size_that_is_stated(name: str, billions: float) -> None:
    assert round(num_parameters(name) / 1e9, 2) == billions
    assert name == "pretrain_4m" or f"{billions}B parameters" in summary(name)


@pytest.mark.parametrize(("name", "ranks"), [("pretrain_4m", 8), ("pretrain_large", 16), ("pretrain_huge", 32)])
def test_the_batch_divides_over_the_ranks_of_the_command(name: str, ranks: int) -> None:
    config = get_recipe(name)
    steps = config.accumulation_steps(ranks)
    assert steps * ranks * config.train.micro_batch_size == config.train.global_batch_size


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="there is no recipe pretrain_4b: did you mean pretrain_4m"):
        get_recipe("pretrain_4b")
    with pytest.raises(ConfigError, match="choose one of debug"):
        get_recipe("xyz")
