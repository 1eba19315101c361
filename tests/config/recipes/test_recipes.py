"""Recipes."""

from __future__ import annotations

import re

import pytest
import torch

from albef_ds.common.errors import ConfigError
from albef_ds.config.recipes import RECIPES, get_recipe, summary
from albef_ds.config.schema import RunConfig
from albef_ds.models.albef import ALBEF


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


FINETUNED = {  # name: kind, pixels, global batch, epochs, peak learning rate, warm-up steps
    "retrieval_flickr": ("retrieval", 384, 256, 10, 1e-5, 0),
    "retrieval_coco": ("retrieval", 384, 256, 5, 1e-5, 0),
    "vqa": ("vqa", 384, 256, 8, 2e-5, 400),
    "nlvr_pretrain": ("text_assignment", 256, 512, 1, 2e-5, 100),
    "nlvr": ("classification", 384, 128, 10, 2e-5, 100),
    "snli_ve": ("classification", 384, 256, 5, 2e-5, 100),
    "grounding_refcoco": ("retrieval", 384, 256, 5, 1e-5, 0),
}


@pytest.mark.parametrize("name", list(FINETUNED))
def test_the_papers_fine_tunings_are_the_released_settings(name: str) -> None:
    config = get_recipe(name)
    kind, pixels, batch, epochs, rate, warmup = FINETUNED[name]
    assert (config.task.kind, config.model.vision.image_size) == (kind, pixels)
    assert (config.train.global_batch_size, config.train.epochs) == (batch, epochs)
    assert (config.optim.learning_rate, config.optim.warmup_samples) == (rate, warmup * batch)
    assert config.accumulation_steps(8) == 1
    assert (config.optim.weight_decay, config.data.sep_token) == (0.02, False)
    assert config.model.text == RunConfig().model.text


def test_the_papers_tasks_have_the_released_shape() -> None:
    assert [get_recipe(name).task.k_test for name in ("retrieval_flickr", "retrieval_coco", "vqa")] == [128, 256, 128]
    shapes = [(task.num_classes, task.num_images) for task in (get_recipe("snli_ve").task, get_recipe("nlvr").task)]
    assert shapes == [(3, 1), (2, 2)]
    assert get_recipe("snli_ve").task.alpha_at(0.0) == 0.4 and get_recipe("nlvr").task.alpha_at(0.5) == 0.2
    assert get_recipe("grounding_refcoco").data.crop_scale_min == 1.0 and get_recipe("vqa").data.crop_scale_min == 0.5
