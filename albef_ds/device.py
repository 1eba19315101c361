"""Which device and precision a run gets. Decided from the hardware, said in one line, refused where it cannot work."""

from __future__ import annotations

import os

import torch

from albef_ds.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device that `engine.device` stands for; `ConfigError` for cuda on a machine without it."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("engine.device=cuda but torch sees no GPU: use engine.device=cpu, or install a CUDA build and driver")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has bf16 arithmetic; emulation would be slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for `engine.precision`; `ConfigError` for fp16 on a CPU."""
    if name == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("engine.precision=fp16 does not train on a CPU: use engine.precision=bf16 or fp32")
    return name
