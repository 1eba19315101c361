"""Starting DeepSpeed: environment, process group, and the configuration made from ours.

`prepare_environment` must run before deepspeed is imported for the first time; it reads its environment then.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from albef_ds.common.errors import MachineError
from albef_ds.common.processes import free_port
from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.schema import RunConfig
from albef_ds.engine.zero.rendezvous import meet

LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def prepare_environment(device: torch.device) -> None:
    """Complete the launch variables for one process and tell DeepSpeed which accelerator to use.

    Raises:
        MachineError: a launcher set some of RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT but not all.
    """
    given = [name for name in LAUNCH_VARIABLES if name in os.environ]
    if not given:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    elif missing := [name for name in LAUNCH_VARIABLES if name not in os.environ]:
        # DeepSpeed would fall through to an MPI discovery that is not installed and hide the reason.
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
    """Bring the process group up (gloo on CPU, nccl on GPU); nothing where it is up already.

    Args:
        device: where the ranks compute.
        start_limit: seconds for all ranks to come; 0: as long as it takes.
        collective_limit: seconds after which a collective gives up.

    Raises:
        UserError: incomplete launch variables, or ranks that did not come.
    """
    prepare_environment(device)
    # DeepSpeed calls torch's collectives by names that torch 2.14 warns about, once per call site and rank.
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
            store=meet(start_limit),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=timedelta(seconds=collective_limit),
        )


def precision_section(precision: str) -> dict[str, Any]:
    """DeepSpeed's section for a resolved precision: fp32, bf16 or fp16 (dynamic loss scale)."""
    if precision == "bf16":
        return {"bf16": {"enabled": True}}
    if precision == "fp16":
        return {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "min_loss_scale": 1}}
    return {}


def deepspeed_config(config: RunConfig, precision: str, world_size: int) -> dict[str, Any]:
    """The whole DeepSpeed configuration of a run: ours, plus the ZeRO knobs of `engine.ds_config`.

    Raises:
        UserError: the batch does not divide, or the file names a key that `RunConfig` owns.
    """
    stage = config.engine.stage
    knobs = load_ds_config(Path(config.engine.ds_config), stage) if config.engine.ds_config else {}
    zero = {"stage": stage, **knobs.pop("zero_optimization", {})}
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
