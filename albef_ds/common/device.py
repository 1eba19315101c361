"""Chooses device and precision of a run from the settings and the hardware, and refuses combinations that cannot work."""

from __future__ import annotations

import contextlib
import os

import torch

from albef_ds.common.errors import ConfigError, MachineError


def resolve_device(name: str) -> torch.device:
    """Returns the device for `engine.device`. Raises `MachineError` for cuda on a machine without a GPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise MachineError("engine.device=cuda but torch sees no GPU: use engine.device=cpu, or install a CUDA build and driver")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def multiplies_bf16(device: torch.device) -> bool:
    """Returns whether the hardware multiplies bf16 faster than fp32.

    Read from the processor's features instead of measured, so that all ranks and every resumption agree. AVX-512's bf16
    instruction is twice as fast as fp32's on AMD and half as fast on Intel (benchmarks/step.md), where AMX is the fast unit.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported()) or (torch.cpu._is_avx512_bf16_supported() and not _is_intel())


def _is_intel() -> bool:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as processors:
        return any("GenuineIntel" in line for line in processors)
    return False


def resolve_precision(name: str, device: torch.device) -> str:
    """Returns fp32, bf16 or fp16 for `engine.precision`. Raises `ConfigError` for fp16 on a CPU."""
    if name == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("engine.precision=fp16 does not train on a CPU: use engine.precision=bf16 or fp32")
    return name
