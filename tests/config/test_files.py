"""Configurations written to JSON and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError
from albef_ds.config.files import from_dict, load, save, to_dict
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import RECIPES, get_recipe
from albef_ds.config.schema import RunConfig


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_round_trip_is_exact(recipe: str, tmp_path: Path) -> None:
    config = parse_overrides(get_recipe(recipe), ["optim.eps=1.0000000000000002e-8", "output=söme where"])
    save(config, tmp_path / "new" / "config.json")
    assert load(tmp_path / "new" / "config.json") == config
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_what_a_file_leaves_out_takes_its_default() -> None:
    assert from_dict({"train": {"seed": 7}}) == parse_overrides(RunConfig(), ["train.seed=7"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": {"sed": 1}}, ["train.sed", "train.seed"]),
        ({"tain": {}}, ["tain"]),
        ({"train": 3}, ["train is 3"]),
        ({"train.seed": 3}, ["train.seed is a dotted key"]),
        ({"train": {"seed": 1.5}}, ["train.seed=1.5", "int"]),
        ({"train": {"seed": True}}, ["train.seed=True", "int"]),
        ({"data": {"flip": 1}}, ["data.flip=1", "bool"]),
        ({"optim": {"eps": "x"}}, ["optim.eps=x", "float"]),
        ({"engine": {"kind": "slow"}}, ["engine.kind=slow", "local, zero"]),
        ({"engine": {"kind": ["zero"]}}, ["engine.kind", "local, zero"]),
        ({"model": {"vision": None}}, ["model.vision is None"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(content: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"train": {"seed": 1,}}', ["line 1", "JSON"]),
        ('{"train": {"seed": 1, "seed": 2}}', ["seed twice"]),
        ("[1]", ["does not contain a JSON object"]),
        ("\udcff", ["cannot be read"]),
        ('{"optim": {"eps": NaN}}', ["optim.eps=nan"]),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json does not exist"):
        load(tmp_path / "nowhere.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save(RunConfig(), path)
    before = path.read_bytes()
    unwritable = RunConfig(output="\udcff")  # cannot be encoded as UTF-8
    with pytest.raises(UnicodeEncodeError):
        save(unwritable, path)
    assert path.read_bytes() == before


def test_every_value_is_plain_json() -> None:
    assert json.loads(json.dumps(to_dict(RunConfig()))) == to_dict(RunConfig())
