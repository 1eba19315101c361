"""Tokens of a run's steps, and model FLOPs utilisation: the model's FLOP/s as a share of the peak of all devices.

The model's FLOPs are those of `launch/planning/flops.py`: captions of full length, a full queue, recomputation not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from albef_ds.common import comm
from albef_ds.config.schema import RunConfig
from albef_ds.config.tasks import PretrainConfig
from albef_ds.data.batch import Batch
from albef_ds.launch.planning.flops import step_flops
from albef_ds.training.run_log import LEAST_SECONDS

_PEAKS = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}
"""The manufacturer's dense bf16 and fp16 FLOP/s by a part of the device's name; the first that fits."""


def peak_flops(config: RunConfig, device: torch.device, precision: str) -> float:
    """Returns the peak FLOP/s of one device: `train.peak_tflops`, or the manufacturer's in bf16 and fp16; 0 if unknown."""
    if config.train.peak_tflops:
        return 1e12 * config.train.peak_tflops
    if device.type != "cuda" or precision == "fp32":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), 0.0)


class Speed:
    """Counts the tokens of the steps between two log lines."""

    def __init__(self, config: RunConfig, device: torch.device, precision: str) -> None:
        self._tokens: list[Tensor] = []
        self.peak = peak_flops(config, device, precision)
        counted = isinstance(config.task, PretrainConfig)
        self.flops = sum(part.model for part in step_flops(config)) / config.train.micro_batch_size if counted else 0.0
        """The model's FLOPs of a sample; 0 for tasks whose FLOPs are not counted."""
        self._device, self._precision = device, precision

    def describe(self) -> str:
        """Returns a line for the log about the model's FLOPs and the peak."""
        flops = f"{self.flops / 1e9:,.1f} GFLOP per sample" if self.flops else "FLOPs of this task are not counted"
        if self.peak:
            return f"model: {flops}; peak of a device: {self.peak / 1e12:,.4g} TFLOP/s"
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "this CPU"
        return (
            f"model: {flops}; unknown peak of {name} in {self._precision}: train.peak_tflops=NUMBER logs model FLOPs utilisation"
        )

    def after_step(self, micro_batches: Sequence[Batch]) -> None:
        """Counts the tokens of a step, without waiting for the device."""
        self._tokens += [batch.token_mask.sum() for batch in micro_batches]

    def tokens(self) -> float:
        """Returns this rank's tokens since the last call, padding left out."""
        tokens = float(torch.stack(self._tokens).sum()) if self._tokens else 0.0
        self._tokens.clear()
        return tokens

    def least_seconds(self) -> dict[str, float]:
        """Returns `LEAST_SECONDS` and the seconds per sample of all devices at their peak; empty if that is unknown."""
        return {LEAST_SECONDS: self.flops / self.peak / comm.world_size()} if self.flops and self.peak else {}
