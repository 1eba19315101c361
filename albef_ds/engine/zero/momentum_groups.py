"""Groups of ranks that each hold the whole sharded momentum model, so that its forward pass sends nothing between groups.

A group is a node by default. Ranks of different groups with the same index hold the same part of every unit:

    node 0:  rank 0  rank 1   <- a group: its ranks gather units from each other
    node 1:  rank 2  rank 3
               ^---- ranks `across` groups: they hold the same part
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from albef_ds.common import comm
from albef_ds.config.engine import EngineConfig


@dataclass(frozen=True)
class MomentumGroup:
    """This rank's group. All groups are of one size."""

    groups: tuple[tuple[int, ...], ...]
    """The ranks of every group, ascending."""
    rank: int
    inside: Any = None
    """Process group of this rank's momentum group; None: all ranks."""
    across: Any = None
    """Process group of the ranks with this rank's index in every group; None: all ranks."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]], rank: int) -> MomentumGroup:
        """Makes the process groups of `rank`; all ranks call it together with the same `groups`."""
        if len(groups) == 1 or not comm.is_distributed():
            return cls(tuple(map(tuple, groups)), rank)
        own = next(group for group in groups if rank in group)
        same = [group[own.index(rank)] for group in groups]
        # The others need not know of it: with 64 nodes nobody makes 64 groups.
        inside = None if len(own) == 1 else dist.new_group(list(own), use_local_synchronization=True)
        across = None if len(own) == 1 else dist.new_group(same, use_local_synchronization=True)
        return cls(tuple(map(tuple, groups)), rank, inside, across)

    @property
    def size(self) -> int:
        """Returns the number of ranks of each group."""
        return len(self.groups[0])

    @property
    def count(self) -> int:
        """Returns the number of groups, each of which holds the whole model."""
        return len(self.groups)

    @property
    def index(self) -> int:
        """Returns this rank's place in its group."""
        return next(group.index(self.rank) for group in self.groups if self.rank in group)

    def holders(self) -> list[tuple[int, int]]:
        """Returns (index in the group, place among the ranks across groups) of every rank, in rank order."""
        found = {}
        for index in range(self.size):
            for place, rank in enumerate(sorted(group[index] for group in self.groups)):
                found[rank] = index, place
        return [found[rank] for rank in sorted(found)]


def momentum_group(config: EngineConfig) -> MomentumGroup:
    """Returns this rank's group by `engine.momentum_group`; all ranks call it together.

    Raises:
        ConfigError: a number does not divide the ranks.
    """
    world_size = comm.world_size()
    if config.momentum_group == "node" and world_size > 1:
        nodes = ranks_of_nodes(comm.all_gather_objects(node_name()))
        groups = nodes if len(set(map(len, nodes))) == 1 else [list(range(world_size))]
    else:
        size = config.momentum_group_size(world_size, world_size)
        groups = [list(range(first, first + size)) for first in range(0, world_size, size)]
    return MomentumGroup.of(groups, comm.rank())


def node_name() -> str:
    """Returns a name that is equal on the ranks of one node: host and network namespace, or NCCL_HOSTID as for NCCL."""
    if named := os.environ.get("NCCL_HOSTID"):
        return named
    namespace = Path("/proc/self/ns/net")
    return f"{socket.gethostname()} {namespace.stat().st_ino if namespace.exists() else ''}"


def ranks_of_nodes(names: Sequence[str]) -> list[list[int]]:
    """Returns the ranks of every node by the ranks' `node_name`s, nodes in the order of their first rank."""
    return [[rank for rank, name in enumerate(names) if name == node] for node in Counter(names)]
