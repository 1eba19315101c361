"""Starts DeepSpeed: environment, process group, and DeepSpeed's configuration made from ours.

Call `prepare_environment` before deepspeed is imported for the first time: the import reads the environment.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.common.processes import free_port
from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.schema import RunConfig
from albef_ds.engine.zero.rendezvous import connect

LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def prepare_environment(device: torch.device) -> None:
    """Sets the launch variables for a single process if none is set, and DeepSpeed's accelerator.

    Raises:
        MachineError: some but not all of RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set.
    """
    given = [name for name in LAUNCH_VARIABLES if name in os.environ]
    if not given:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    elif missing := [name for name in LAUNCH_VARIABLES if name not in os.environ]:
        # DeepSpeed would try MPI discovery, which is not installed, and hide the reason.
        raise MachineError(
            f"{', '.join(missing)} is not set though {given[0]} is: start with torchrun or deepspeed, or export all of "
            f"{', '.join(LAUNCH_VARIABLES)}"
        )
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(cache / "albef_ds" / "torch_extensions"))
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")


def init_distributed(device: torch.device, start_limit: float = 0.0, collective_limit: float = 1800.0) -> None:
    """Initialises the process group (gloo on CPU, nccl on GPU) unless it is initialised already.

    Args:
        device: device of the ranks.
        start_limit: seconds for all ranks to start; 0: no limit.
        collective_limit: timeout of a collective in seconds.

    Raises:
        UserError: the launch variables are incomplete, or ranks did not start in time.
    """
    prepare_environment(device)
    # DeepSpeed calls torch's collectives by names that torch 2.14 warns about at each call site and rank.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r".*_(into_)?tensor` is deprecated")
    import deepspeed  # start-up: it reads the environment set above

    if device.type == "cpu":
        # The shared-memory backend is compiled with g++ at the first start and serves inference only.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    elif "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo" if device.type == "cpu" else "nccl",
            store=connect(start_limit),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=timedelta(seconds=collective_limit),
        )


def precision_section(precision: str) -> dict[str, Any]:
    """Returns DeepSpeed's section for a resolved precision: fp32, bf16 or fp16 (dynamic loss scale)."""
    if precision == "bf16":
        return {"bf16": {"enabled": True}}
    if precision == "fp16":
        return {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "min_loss_scale": 1}}
    return {}


def _check_knobs(zero: dict[str, Any], file: str) -> None:
    """Lets DeepSpeed check the knobs of a file. Raises `ConfigError` with the file, the key and the reason."""
    if not file:
        return
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # start-up: see the module's docstring
    from pydantic import ValidationError  # start-up: part of DeepSpeed

    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["zero_optimization", *map(str, first["loc"])])
        raise ConfigError(f"{file} sets {key}, which DeepSpeed refuses ({first['msg']}): correct or remove it") from None


def _check_against_run(zero: dict[str, Any], config: RunConfig, world_size: int) -> None:
    """Raises `ConfigError` for knobs that do not fit the run's ranks, clipping or device, at which DeepSpeed asserts."""
    group = zero.get("zero_hpz_partition_size", 1)
    if group < 1 or world_size % group:
        raise ConfigError(
            f"{config.engine.ds_config} sets zero_optimization.zero_hpz_partition_size to {group}, which does not divide "
            f"{world_size} ranks: give the ranks of a node"
        )
    if not zero.get("compute_grad_norm", True) and config.optim.clip_norm:
        raise ConfigError(
            f"{config.engine.ds_config} sets zero_optimization.compute_grad_norm to false, and optim.clip_norm needs the norm: "
            "remove one of them"
        )
    quantised = next((name for name in zero if name.startswith("zero_quantized_") and zero[name]), "")
    if quantised and os.environ.get("DS_ACCELERATOR") == "cpu":
        raise ConfigError(
            f"{config.engine.ds_config} sets zero_optimization.{quantised}, whose kernels need a GPU: remove it, or use "
            "engine.device=cuda"
        )


def deepspeed_config(config: RunConfig, precision: str, world_size: int) -> dict[str, Any]:
    """Returns the full DeepSpeed configuration of a run: ours, plus the ZeRO settings in the file `engine.ds_config`.

    Raises:
        UserError: the global batch does not divide, or the file sets a key that belongs to `RunConfig`.
    """
    stage = config.engine.stage
    knobs = load_ds_config(Path(config.engine.ds_config), stage) if config.engine.ds_config else {}
    zero = {"stage": stage, **knobs.pop("zero_optimization", {})}
    _check_knobs(zero, config.engine.ds_config)
    _check_against_run(zero, config, world_size)
    if config.compute.compile:  # see `internals.use_torchs_linear`
        zero["memory_efficient_linear"] = False
    return {
        **knobs,
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps(world_size),
        "gradient_clipping": config.optim.clip_norm,
        "steps_per_print": 2**31 - 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        **precision_section(precision),
    }
