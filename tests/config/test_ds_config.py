"""ZeRO files: what they may hold, and that DeepSpeed takes the ones we ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError
from albef_ds.config.ds_config import OWNED, load_ds_config
from albef_ds.config.settings import all_settings

SHIPPED = Path(__file__).resolve().parents[2] / "ds_configs"
_ZERO_3 = ("zero3", "zero3_8", "zero3_64", "zero3_512", "zero3_hpz", "zero3_offload")
STAGES = {"zero1.json": 1, "zero2.json": 2, **{f"{name}.json": 3 for name in _ZERO_3}}


def written(folder: Path, content: Any) -> Path:
    path = folder / "ds.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_every_shipped_file_is_listed_here_and_explained() -> None:
    explained = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in SHIPPED.glob("*.json")} == set(STAGES)
    assert all(name in explained for name in STAGES)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_deepspeed_accepts_the_shipped_files(name: str) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    knobs = load_ds_config(SHIPPED / name, STAGES[name])["zero_optimization"]
    assert DeepSpeedZeroConfig(stage=STAGES[name], **knobs).stage == STAGES[name]


@pytest.mark.parametrize("key", sorted(OWNED))
def test_a_key_that_a_setting_owns_is_refused_by_name(key: str, tmp_path: Path) -> None:
    outer, _, inner = key.partition(".")
    path = written(tmp_path, {outer: {inner: 1} if inner else 1})
    with pytest.raises(ConfigError) as caught:
        load_ds_config(path, 3)
    assert key in str(caught.value)
    assert OWNED[key] in str(caught.value)


def test_owners_are_settings_that_exist() -> None:
    names = {word.strip(",") for owner in OWNED.values() for word in owner.split() if "." in word}
    assert names <= set(all_settings())


@pytest.mark.parametrize(
    ("content", "stage", "words"),
    [
        ({"zero_optimisation": {}}, 2, ["zero_optimisation", "did you mean zero_optimization?"]),
        ({"curriculum": {}}, 2, ["curriculum", "not a ZeRO knob"]),
        ({"zero_optimization": 2}, 2, ["zero_optimization to 2"]),
        ({"zero_optimization": {"stage3_max_live_parameters": 1}}, 2, ["stage3_max_live_parameters", "engine.stage=3"]),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, 2, ["offload_param", "engine.stage=3"]),
        ({"zero_optimization": {"overlap_comm": True}}, 0, ["overlap_comm", "engine.stage=1"]),
        ({"zero_optimization": {"offload_optimizer": True}}, 2, ["offload_optimizer", '"device": "cpu"']),
        ({"zero_optimization": {"offload_optimizer": {"device": "gpu"}}}, 2, ["offload_optimizer"]),
    ],
)
def test_what_would_be_ignored_or_misread_is_refused(
    content: dict[str, Any], stage: int, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_ds_config(written(tmp_path, content), stage)
    for word in words:
        assert word in str(caught.value)
