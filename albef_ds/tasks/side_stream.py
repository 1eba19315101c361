"""The momentum model's forward pass on a second CUDA stream, beside the student's. Not yet run on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor


class SideStream:
    """Work that may overlap with what the current stream is given after this was made.

    Make it once what the work reads has been launched, give the current stream its own work, then run the other inside
    `with side.work():` and hand its results to `join`. On a CPU, and with `on` false, everything happens in order.

    Args:
        device: where both compute.
        on: whether to use a second stream.
    """

    def __init__(self, device: torch.device, on: bool) -> None:
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if on and device.type == "cuda":
            self._streams = torch.cuda.current_stream(device), _stream(device)
        self.follow()

    def follow(self) -> None:
        """Wait, on the side, for all that the stream on which this was made has been given so far."""
        if self._streams is not None:
            main, side = self._streams
            side.wait_stream(main)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Launch on the side what is run inside."""
        with torch.cuda.stream(self._streams[1]) if self._streams is not None else contextlib.nullcontext():
            yield

    def join(self, *results: Tensor | None) -> None:
        """Let the stream on which this was made wait for the side; the memory of `results` stays until it has used them."""
        if self._streams is not None:
            main, side = self._streams
            main.wait_stream(side)
            for tensor in results:
                if tensor is not None:
                    tensor.record_stream(main)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
