"""Keeps the momentum model's copies in several groups equal: by sending them under ZeRO-3, by comparing checksums otherwise.

At stages 0 to 2 every group averages the same weights by the same operations, so its copy has the same bits; a checkpoint checks
this. Under ZeRO-3 a group's copy is received, so it cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor

from albef_ds.common import comm
from albef_ds.common.errors import MachineError
from albef_ds.engine.zero.momentum_groups import MomentumGroup
from albef_ds.engine.zero.momentum_storage import Storage


class Replica:
    """A group's copy of the values of storages that are spread over all ranks: this rank's share of it.

    Args:
        storages: this rank's storages, of S elements together.
        group: this rank's group; `group.count` groups of equal size.
    """

    def __init__(self, storages: Sequence[Storage], group: MomentumGroup) -> None:
        self._storages = storages
        self._group = group
        self._work: Any = None
        self._values: Tensor | None = None

    def send(self) -> None:
        """Starts the message after which every rank has the current values; all ranks call it together."""
        self.wait()
        sent = torch.cat([storage.sent for storage in self._storages])
        if self._values is None or self._values.device != sent.device:
            self._values = sent.new_empty((self._group.count, sent.numel()))
        self._work = comm.all_gather_single(self._values.view(-1), sent, group=self._group.across, async_op=True)

    def wait(self) -> None:
        """Waits for the message."""
        if self._work is not None:
            self._work.wait()
            self._work = None

    def discard(self) -> None:
        """Marks the values as outdated: the next `values` sends them again."""
        self.wait()
        self._values = None

    def values(self) -> Tensor:
        """Returns (count, S): the storages of the ranks across groups, in rank order."""
        if self._values is None:
            self.send()
        self.wait()
        assert self._values is not None
        return self._values

    @property
    def num_bytes(self) -> int:
        """Bytes held on this rank."""
        return self._group.count * sum(storage.sent.nbytes for storage in self._storages)


def check_equal(storages: Sequence[Storage], group: MomentumGroup) -> None:
    """Compares the bits of all groups' copies by a checksum of each rank's part; all ranks call it together.

    Raises:
        MachineError: copies differ, with the ranks that differ from what most groups hold, or all if there is no majority.
    """
    digest = xxhash.xxh3_64()
    for storage in storages:
        for tensor in storage.tensors():
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    device = storages[0].sent.device if storages else torch.device("cpu")
    own = torch.tensor([digest.intdigest() - 2**63], device=device)
    sums = comm.all_gather(own).tolist()
    odd: list[int] = []
    for index in range(group.size):
        same = [ranks[index] for ranks in group.groups]
        found = [sums[rank] for rank in same]
        usual = max(found, key=found.count)
        majority = 2 * found.count(usual) > len(found)
        odd += [rank for rank, value in zip(same, found, strict=True) if value != usual or not majority]
    if odd:
        raise MachineError(
            f"the momentum model on rank {', '.join(map(str, sorted(odd)))} differs from its copies in other groups, so a device "
            "has computed wrongly: check the memory of these ranks' nodes and resume from the last checkpoint"
        )
