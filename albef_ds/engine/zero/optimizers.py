"""The implementations of AdamW. All compute the same step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

from albef_ds.common.apex import nvidia_apex
from albef_ds.common.errors import MachineError
from albef_ds.config.schema import OptimConfig


def _torch(groups: list[dict[str, Any]], config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    del device
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def _deepspeed_fused(groups: list[dict[str, Any]], config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    if device.type != "cuda":
        raise MachineError("optim.name=deepspeed_fused needs a GPU: use optim.name=torch or optim.name=deepspeed_cpu")
    from deepspeed.ops.adam import FusedAdam  # optional package, compiled

    optimizer: torch.optim.Optimizer = FusedAdam(
        groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, adam_w_mode=True
    )
    return optimizer


def _deepspeed_cpu(groups: list[dict[str, Any]], config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    del device
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        raise MachineError(
            f"optim.name=deepspeed_cpu is compiled at first use and {' and '.join(missing)} is not on the path: install it "
            "(Debian: apt install g++ ninja-build), or use optim.name=torch"
        )
    from deepspeed.ops.adam import DeepSpeedCPUAdam  # optional package, compiled

    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(
        groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, adamw_mode=True
    )
    return optimizer


def _apex(groups: list[dict[str, Any]], config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    module = nvidia_apex("optimizers", "FusedAdam")
    if module is None or device.type != "cuda":
        raise MachineError(
            "optim.name=apex needs a GPU and NVIDIA apex (github.com/NVIDIA/apex, built with --cuda_ext; the package "
            "apex on PyPI is a different project): install it, or use optim.name=auto"
        )
    optimizer: torch.optim.Optimizer = module.FusedAdam(
        groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, adam_w_mode=True
    )
    return optimizer


_IMPLEMENTATIONS: dict[str, Callable[[list[dict[str, Any]], OptimConfig, torch.device], torch.optim.Optimizer]] = {
    "torch": _torch,
    "deepspeed_fused": _deepspeed_fused,
    "deepspeed_cpu": _deepspeed_cpu,
    "apex": _apex,
}


def choose(name: str, device: torch.device) -> str:
    """Returns the implementation for `name`: `auto` is apex if it is installed and a GPU is used, else torch's fused AdamW.

    `auto` never chooses DeepSpeed's own, which compile C++ at first use.
    """
    if name != "auto":
        return name
    return "apex" if device.type == "cuda" and nvidia_apex("optimizers", "FusedAdam") is not None else "torch"


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """Returns AdamW over `groups` by the implementation `config.name`, with learning rate 0: set it before each step.

    Raises:
        UserError: the implementation cannot run here; the message says how to install it.
    """
    return _IMPLEMENTATIONS[choose(config.name, device)](groups, config, device)
