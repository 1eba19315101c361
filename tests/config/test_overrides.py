"""`section.field=value` as the command line takes it."""

from __future__ import annotations

import pytest

from albef_ds.common.errors import ConfigError
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import RunConfig

DEFAULT = RunConfig()


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("model.vision.depth=3", "model.vision", "depth", 3),
        ("optim.warmup_samples=1e6", "optim", "warmup_samples", 1_000_000),
        ("optim.learning_rate=3e-4", "optim", "learning_rate", 3e-4),
        ("train.epochs=2", "train", "epochs", 2.0),
        ("data.flip=no", "data", "flip", False),
        ("task.compat=TRUE", "task", "compat", True),
        ("engine.kind=local", "engine", "kind", "local"),
        ("data.shards=a=b {0..3}.tar", "data", "shards", "a=b {0..3}.tar"),
        ("data.shards=", "data", "shards", ""),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(override: str, section: str, field: str, value: object) -> None:
    target: object = parse_overrides(DEFAULT, [override])
    for name in section.split("."):
        target = getattr(target, name)
    result = getattr(target, field)
    assert result == value
    assert type(result) is type(value)


def test_the_later_of_two_overrides_wins_and_the_rest_stays() -> None:
    config = parse_overrides(DEFAULT, ["train.seed=1", "output=x", "train.seed=2"])
    assert (config.train.seed, config.output, config.train.log_every) == (2, "x", DEFAULT.train.log_every)


def test_settings_that_depend_on_each_other_change_together() -> None:
    changed = parse_overrides(DEFAULT, ["model.vision.width=130", "model.vision.num_heads=13"])
    assert (changed.model.vision.width, changed.model.vision.num_heads) == (130, 13)
    with pytest.raises(ConfigError, match=r"model\.vision\.width"):
        parse_overrides(DEFAULT, ["model.vision.width=130"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_stpes=3", ["train.max_stpes", "did you mean train.max_steps?"]),
        ("train.learning_rate=3", ["did you mean optim.learning_rate?"]),
        ("modle.vision.depth=3", ["did you mean model.vision.depth?"]),
        ("model.vision=3", ["model.vision is a section"]),
        ("nonsense=3", ["there is no setting nonsense", "albef-ds config"]),
        ("train.max_steps", ["write train.max_steps=VALUE"]),
        ("train.max_steps=ten", ["train.max_steps=ten", "int"]),
        ("train.max_steps=1.5", ["train.max_steps=1.5", "int"]),
        ("train.max_steps=1e999", ["train.max_steps=1e999", "int"]),
        ("optim.eps=nan", ["optim.eps=nan", "float, finite"]),
        ("data.flip=maybe", ["data.flip=maybe", "true or false"]),
        ("engine.kind=zer", ["engine.kind=zer", "one of local, zero"]),
        ("task.alpha=2", ["task.alpha is 2.0", "from 0 to 1"]),
        ("optim.beta2=1", ["optim.beta2 is 1.0", "below 1"]),
        ("train.save_every=-1", ["train.save_every is -1", "0 or more"]),
        ("recipe=debug", ["give debug as the recipe"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting_and_the_fix(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(DEFAULT, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_zero_file_that_nothing_would_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.ds_config .* engine\.kind=local"):
        parse_overrides(DEFAULT, ["engine.kind=local", "engine.ds_config=ds_configs/zero2.json"])
