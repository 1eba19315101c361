"""Reads ZeRO tuning from a DeepSpeed JSON file, limited to what `RunConfig` does not own.

`engine/zero/` derives the rest of DeepSpeed's configuration (batch sizes, precision, optimizer, stage) from `RunConfig`, so a
file cannot contradict it. `zero_knobs.py` has the names inside `zero_optimization` and the types of their values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albef_ds.common.errors import ConfigError
from albef_ds.config.files import read_json_object
from albef_ds.config.settings import nearest
from albef_ds.config.zero_knobs import SECTIONS, checked

OWNED = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size and train.micro_batch_size",
    "fp16": "engine.precision",
    "bf16": "engine.precision",
    "amp": "engine.precision",
    "torch_autocast": "engine.precision",
    "data_types": "engine.precision",
    "optimizer": "optim.name and the other optim settings",
    "scheduler": "optim.warmup_samples and the learning rates in optim",
    "gradient_clipping": "optim.clip_norm",
    "steps_per_print": "train.log_every",
    "seed": "train.seed",
    "activation_checkpointing": "compute.checkpoint_visual, compute.checkpoint_text and compute.checkpoint_multimodal",
    "tensorboard": "output",
    "csv_monitor": "output",
    "checkpoint": "train.save_every",
    "zero_allow_untested_optimizer": "optim.name",
    "zero_force_ds_cpu_optimizer": "optim.name",
    "zero_optimization.stage": "engine.stage",
}
"""Keys whose value a setting determines, with the setting's name."""

ALLOWED = (
    "zero_optimization",
    "aio",
    "communication_data_type",
    "comms_logger",
    "flops_profiler",
    "memory_breakdown",
    "wall_clock_breakdown",
)
"""Top-level keys that a file may contain."""


def load_ds_config(path: Path, stage: int) -> dict[str, Any]:
    """Returns the file's content, to be merged into the DeepSpeed configuration made from `RunConfig`.

    Args:
        path: a JSON file such as those in ds_configs/.
        stage: `engine.stage`, against which the knobs are checked.

    Raises:
        ConfigError: the file is unreadable, or has a key that a setting owns, an unknown key, a value of another type, or a knob
            without effect at `stage`.
    """
    content = read_json_object(path)
    for key in content:
        if key in OWNED:
            raise ConfigError(f"{path} sets {key}, which {OWNED[key]} determines: remove it and change the setting")
        if key not in ALLOWED:
            hint = nearest(key, [*ALLOWED, *OWNED]) or f": the file may contain {', '.join(ALLOWED)}"
            raise ConfigError(f"{path} sets {key}, which is not a ZeRO knob{hint}")
    zero = content.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ConfigError(f"{path} sets zero_optimization to {zero!r}: give an object of ZeRO knobs")
    for key, value in zero.items():
        name = f"zero_optimization.{key}"
        if name in OWNED:
            raise ConfigError(f"{path} sets {name}, which {OWNED[name]} determines: remove it and change the setting")
        if key in SECTIONS and (not isinstance(value, dict) or value.get("device") not in ("none", "cpu", "nvme")):
            raise ConfigError(f'{path} sets {name} to {value!r}: give an object such as {{"device": "cpu"}}')
    zero = checked(zero, path, "zero_optimization")
    for key in zero:
        needs = _needed_stage(key)
        if stage < needs:
            name = f"zero_optimization.{key}"
            raise ConfigError(f"{path} sets {name}, which needs ZeRO stage {needs}: set engine.stage={needs} or remove it")
    return {**content, "zero_optimization": zero} if zero else content


def _needed_stage(key: str) -> int:
    return 3 if key.startswith("stage3_") or key in ("offload_param", "sub_group_size", "zero_hpz_partition_size") else 1
