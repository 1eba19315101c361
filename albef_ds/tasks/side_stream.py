"""Runs the momentum model's forward pass on a second CUDA stream, in parallel to the student's. Not yet run on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor


class SideStream:
    """A stream for work that may overlap with later work of the current stream.

    Create it after the inputs of the work have been launched, launch the current stream's own work, then run the other work in
    `with side.work():` and pass its results to `join`. On a CPU, or with `on` false, everything runs in order.

    Args:
        device: device of both streams.
        on: whether to use a second stream.
    """

    def __init__(self, device: torch.device, on: bool) -> None:
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if on and device.type == "cuda":
            self._streams = torch.cuda.current_stream(device), _stream(device)
        self.follow()

    def follow(self) -> None:
        """Makes the side stream wait for all work launched so far on the main stream, on which this object was created."""
        if self._streams is not None:
            main, side = self._streams
            side.wait_stream(main)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Launches the work inside the block on the side stream."""
        with torch.cuda.stream(self._streams[1]) if self._streams is not None else contextlib.nullcontext():
            yield

    def join(self, *results: Tensor | None) -> None:
        """Makes the main stream wait for the side stream, and keeps the memory of `results` until the main stream has used it."""
        if self._streams is not None:
            main, side = self._streams
            main.wait_stream(side)
            for tensor in results:
                if tensor is not None:
                    tensor.record_stream(main)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
