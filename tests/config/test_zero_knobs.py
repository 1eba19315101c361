"""The names and types of ZeRO knobs are DeepSpeed's, and a mistake in a file is one line with file, key and reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError
from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.zero_knobs import KNOBS, OFFLOAD_OPTIMIZER, OFFLOAD_PARAM, Check

VALUES: list[Any] = [True, False, 0, 1, 2, -1, 0.5, 3.0, "yes", "3", "5e8", [1], {"device": "cpu"}, "/local"]
"""Where a value is refused and DeepSpeed takes it, it is a boolean or text in the place of a number."""


DEPRECATED = ("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory", "stage3_gather_fp16_weights_on_model_save")


def _made(model: Any, name: str, value: Any) -> Any:
    return model(**{name: value}, **({"stage": 2} if "stage" in model.model_fields else {}))


def _accepted(model: Any, name: str, value: Any) -> bool:
    try:
        _made(model, name, value)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, Mapping[str, Check]]]:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

    return {
        "zero": (DeepSpeedZeroConfig, KNOBS),
        "param": (DeepSpeedZeroOffloadParamConfig, OFFLOAD_PARAM),
        "optimizer": (DeepSpeedZeroOffloadOptimizerConfig, OFFLOAD_OPTIMIZER),
    }


@pytest.mark.parametrize("part", ["zero", "param", "optimizer"])
def test_names_are_deepspeeds(part: str, models: dict[str, tuple[Any, Mapping[str, Check]]]) -> None:
    model, ours = models[part]
    theirs = {entry.alias or name for name, entry in model.model_fields.items()} - {"stage"}
    assert set(ours) == theirs


@pytest.mark.parametrize("part", ["zero", "param", "optimizer"])
def test_what_is_accepted_deepspeed_accepts_with_the_same_value(
    part: str, models: dict[str, tuple[Any, Mapping[str, Check]]]
) -> None:
    model, ours = models[part]
    for name, check in ours.items():
        if name in ("zenflow", "leaf_module", "offload_param", "offload_optimizer") or name in DEPRECATED:
            continue
        for value in VALUES:
            try:
                ours_value = check(value)
            except ValueError:
                assert isinstance(value, bool | str) or not _accepted(model, name, value), (name, value)
                continue
            assert _accepted(model, name, value), (name, value)
            entry = next(key for key, found in model.model_fields.items() if name in (key, found.alias))
            assert str(getattr(_made(model, name, value), entry)) == str(ours_value), (name, value)


def _written(folder: Path, zero: dict[str, Any]) -> Path:
    path = folder / "ds.json"
    path.write_text(json.dumps({"zero_optimization": zero}))
    return path


@pytest.mark.parametrize(
    ("zero", "words"),
    [
        ({"reduce_bucket": 1}, ["zero_optimization.reduce_bucket,", "did you mean reduce_bucket_size"]),
        ({"reduce_bucket_size": "5e8"}, ["reduce_bucket_size to '5e8'", "give a whole number"]),
        ({"stage3_max_reuse_distance": -1}, ["stage3_max_reuse_distance to -1", "0 or more"]),
        ({"overlap_comm": "maybe"}, ["overlap_comm to 'maybe'", "true or false"]),
        ({"offload_param": {"device": "cpu", "pinned": True}}, ["zero_optimization.offload_param.pinned", "pin_memory"]),
        ({"offload_optimizer": {"device": "cpu", "ratio": 2}}, ["zero_optimization.offload_optimizer.ratio to 2", "0 to 1"]),
        ({"max_live_parameters": 1, "stage3_max_live_parameters": 2}, ["which are one"]),
    ],
)
def test_a_typo_or_a_wrong_type_is_one_line_with_file_key_and_reason(
    zero: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    path = _written(tmp_path, zero)
    with pytest.raises(ConfigError) as caught:
        load_ds_config(path, 3)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_values_are_read_as_deepspeed_reads_them(tmp_path: Path) -> None:
    path = _written(
        tmp_path, {"max_live_parameters": "7", "reduce_bucket_size": 5e8, "contiguous_gradients": "off", "overlap_comm": "auto"}
    )
    assert load_ds_config(path, 3)["zero_optimization"] == {
        "stage3_max_live_parameters": 7,
        "reduce_bucket_size": 500_000_000,
        "contiguous_gradients": False,
    }


def test_a_mistake_that_only_deepspeed_sees_is_one_line_too(tmp_path: Path) -> None:
    from albef_ds.config.schema import EngineConfig, RunConfig
    from albef_ds.engine.zero.setup import deepspeed_config

    path = _written(tmp_path, {"zenflow": {"topk": 1}})
    with pytest.raises(ConfigError, match=r"zero_optimization\.zenflow\.topk.*DeepSpeed refuses"):
        deepspeed_config(RunConfig(engine=EngineConfig(ds_config=str(path))), "fp32", 1)


def test_train_refuses_the_file_before_anything_starts(tmp_path: Path) -> None:
    from albef_ds.cli.train import main

    path = _written(tmp_path, {"overlap_com": True})
    with pytest.raises(ConfigError, match="overlap_com, which DeepSpeed does not know: did you mean overlap_comm"):
        main(["--recipe", "pretrain_4m", f"engine.ds_config={path}", f"output={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
