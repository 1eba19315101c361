"""The device and the precision that `albef_ds.load` is asked for."""

from __future__ import annotations

import torch

from albef_ds.common.errors import ConfigError, MachineError


def device_of(device: str | torch.device) -> torch.device:
    """`device`, or for "auto" the GPU if there is one. Raises `MachineError` if it cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise MachineError(f"device {device} cannot be used ({str(error).partition(chr(10))[0]}): give cpu or cuda") from None


_DTYPES: dict[str, torch.dtype] = {
    **dict.fromkeys(("fp32", "float32"), torch.float32),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp16", "float16"), torch.float16),
    "fp64": torch.float64,
}


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype:
    """The floating-point type that `dtype` names; None: float32. Raises `ConfigError` for another."""
    if dtype is None:
        return torch.float32
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or not chosen.is_floating_point:
        raise ConfigError(f"dtype {dtype} cannot be used: give one of {', '.join(_DTYPES)}, or a torch floating-point dtype")
    return chosen
