"""Exchange between the ranks before every step, in one message, of values that only one of them may know."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist

from albef_ds.common import comm


@dataclass(frozen=True)
class Agreement:
    """This rank's values before `over_ranks`; the same on every rank after it."""

    stop: int
    """Number of the signal that asks to stop, `stop.TIME_LIMIT`, or 0."""
    seconds: float
    """Training time of the run so far."""
    saving: bool
    """True while a checkpoint is still being written."""
    loss: float
    """Loss of the last step; -inf if it is not finite or there was no step."""

    def over_ranks(self, device: torch.device) -> Agreement:
        """Returns the largest of each value over the ranks. All ranks call it together."""
        vote = torch.tensor(astuple(self), dtype=torch.float64)
        if comm.is_distributed():
            vote = vote.to(device)
            dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        stop, seconds, saving, loss = vote.tolist()
        return Agreement(int(stop), seconds, bool(saving), loss)
