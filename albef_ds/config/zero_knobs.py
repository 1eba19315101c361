"""The ZeRO knobs of the supported DeepSpeed (0.19) with the type of each, so that a file is checked without importing DeepSpeed.

tests/config/test_zero_knobs.py compares the tables with DeepSpeed's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError
from albef_ds.config.settings import nearest

STAGE3 = "stage3_"


def _truth(value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError("give true or false")


_TRUE, _FALSE = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")
_WORDS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)


def _whole(value: Any) -> int:
    if not isinstance(value, bool):
        if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
            return int(value)
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    raise ValueError("give a whole number")


def _size(value: Any) -> int:
    if (number := _whole(value)) < 0:
        raise ValueError("give a whole number, 0 or more")
    return number


def _positive(value: Any) -> int:
    if (number := _whole(value)) < 1:
        raise ValueError("give a whole number above 0")
    return number


def _share(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0:
        return float(value)
    raise ValueError("give a number from 0 to 1")


def _path(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("give a path")


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError("give an object")


def _device(value: Any) -> str:
    if value in ("none", "cpu", "nvme"):
        return str(value)
    raise ValueError("give none, cpu or nvme")


Check = Callable[[Any], Any]

OFFLOAD_PARAM: Mapping[str, Check] = {
    "device": _device,
    "nvme_path": _path,
    "buffer_count": _size,
    "buffer_size": _size,
    "max_in_cpu": _size,
    "pin_memory": _truth,
}
OFFLOAD_OPTIMIZER: Mapping[str, Check] = {
    "device": _device,
    "nvme_path": _path,
    "buffer_count": _size,
    "pin_memory": _truth,
    "pipeline_read": _truth,
    "pipeline_write": _truth,
    "fast_init": _truth,
    "ratio": _share,
    "super_offload": _truth,
    "cpuadam_cores_perc": _share,
}
SECTIONS: Mapping[str, Mapping[str, Check]] = {"offload_param": OFFLOAD_PARAM, "offload_optimizer": OFFLOAD_OPTIMIZER}
_SIZES = ("allgather_bucket_size", "sub_group_size", "zero_hpz_partition_size")
_STAGE3_SIZES = (
    "prefetch_bucket_size",
    "param_persistence_threshold",
    "model_persistence_threshold",
    "max_live_parameters",
    "max_reuse_distance",
)
_STAGE3_TRUTHS = ("gather_16bit_weights_on_model_save", "use_all_reduce_for_fetch_params", "allgather_sequential")
_TRUTHS = (
    "contiguous_gradients",
    "reduce_scatter",
    "use_multi_rank_bucket_allreduce",
    "allgather_partitions",
    "overlap_comm",
    "compute_grad_norm",
    "load_from_fp32_weights",
    "elastic_checkpoint",
    "cpu_offload_param",
    "cpu_offload_use_pin_memory",
    "cpu_offload",
    "stage3_gather_fp16_weights_on_model_save",
    "ignore_unused_parameters",
    "legacy_stage1",
    "round_robin_gradients",
    "parameter_alignment",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
    "memory_efficient_linear",
    "pipeline_loading_checkpoint",
    "override_module_apply",
    "log_trace_cache_warnings",
    "enable_sanity_checks",
    "save_muon_momentum_buffer_in_memory",
)
KNOBS: Mapping[str, Check] = {
    **dict.fromkeys(_SIZES, _size),
    **dict.fromkeys((STAGE3 + name for name in _STAGE3_SIZES), _size),
    **dict.fromkeys(_TRUTHS, _truth),
    **dict.fromkeys((STAGE3 + name for name in _STAGE3_TRUTHS), _truth),
    "stage3_module_granularity_threshold": _whole,
    "reduce_bucket_size": _positive,
    **dict.fromkeys((*SECTIONS, "zenflow", "leaf_module"), _object),
}
"""Name -> a function that returns the value in the knob's type, or raises ValueError with the fix. `zenflow` and `leaf_module`
are checked by DeepSpeed."""


def checked(knobs: Mapping[str, Any], path: Path, prefix: str, known: Mapping[str, Check] = KNOBS) -> dict[str, Any]:
    """Returns `knobs` with every value in its type, as DeepSpeed would read it.

    DeepSpeed also takes its names without `stage3_`; they are returned with it.

    Args:
        knobs: name -> value in the file `path`, inside `prefix`.
        path: for messages.
        prefix: for messages, such as `zero_optimization`.
        known: name -> check.

    Raises:
        ConfigError: a name is unknown or a value is of another type; the message has the file, the key and the reason.
    """
    found: dict[str, Any] = {}
    for name, value in knobs.items():
        full = STAGE3 + name if STAGE3 + name in known else name
        if full not in known:
            hint = nearest(name, list(known)) or ": remove it"
            raise ConfigError(f"{path} sets {prefix}.{name}, which DeepSpeed does not know{hint}")
        if full != name and full in knobs:
            raise ConfigError(f"{path} sets {prefix}.{name} and {prefix}.{full}, which are one: keep the second")
        if value == "auto":  # DeepSpeed takes its default
            continue
        try:
            found[full] = known[full](value)
        except ValueError as error:
            raise ConfigError(f"{path} sets {prefix}.{name} to {value!r}: {error}") from None
        if full in SECTIONS and known is KNOBS:
            found[full] = checked(found[full], path, f"{prefix}.{name}", SECTIONS[full])
    return found
