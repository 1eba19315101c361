"""Connects the ranks of a run through a store at MASTER_ADDR:MASTER_PORT and names those that do not start in time.

torch's own rendezvous waits too, but only counts the missing ranks.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from albef_ds.common.errors import MachineError

_STORES: Any = dist  # its type stub lacks the stores
_POLL = 0.1
_ARRIVED = "albef_ds/arrived"


def connect(limit: float, environment: Mapping[str, str] | None = None) -> Any:
    """Waits until all ranks have connected and returns the store for `torch.distributed.init_process_group`.

    Args:
        limit: seconds to wait; 0: no limit.
        environment: RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; default: this process's.

    Raises:
        MachineError: ranks did not connect in time; the message names them, with the host if another rank of their node
            connected. Or rank 0, which holds the store, cannot be reached.
    """
    environment = os.environ if environment is None else environment
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    seconds = limit or 1e7
    # If the launcher holds the store, rank 0 connects as a client too.
    hosts_it = rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store: Any = _STORES.TCPStore(address, port, world_size, hosts_it, timedelta(seconds=seconds), wait_for_workers=False)
    except (dist.DistError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise MachineError(
            f"rank {rank} on {socket.gethostname()} found no rank 0 at {address}:{port} in train.start_limit ({reason}): read "
            "the log of that node, and check whether another run uses the port"
        ) from None
    # A launcher's store outlives a restart of the ranks, so each attempt uses its own prefix.
    store = _STORES.PrefixStore(f"attempt-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    store.set(f"{_ARRIVED}/{rank}", json.dumps(socket.gethostname()))
    deadline = time.monotonic() + seconds
    missing = list(range(world_size))
    try:
        while missing := [other for other in missing if not store.check([f"{_ARRIVED}/{other}"])]:
            if time.monotonic() > deadline:
                came = [other for other in range(world_size) if other not in missing]
                here = {other: json.loads(store.get(f"{_ARRIVED}/{other}")) for other in came}
                per_node = int(environment.get("LOCAL_WORLD_SIZE") or "1")
                raise MachineError(_missing_ranks(missing, here, world_size, per_node, limit))
            time.sleep(_POLL)
    except dist.DistError:
        raise MachineError(f"rank 0 at {address} exited before all ranks had started: read its log for the reason") from None
    store.set_timeout(timedelta(minutes=30))
    return store


def _missing_ranks(missing: list[int], here: Mapping[int, str], world_size: int, per_node: int, limit: float) -> str:
    """Returns the message that names the missing ranks, each with the host of a rank of the same node that started."""
    named = []
    for rank in missing[:4]:
        node = range(rank // per_node * per_node, (rank // per_node + 1) * per_node)
        host = next((here[other] for other in node if other in here), None)
        named.append(f"rank {rank} on {host}" if host else f"rank {rank} (no rank of its node started)")
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return (
        f"{', '.join(named)}{more} did not start within {limit:g} s (train.start_limit), {len(here)} of {world_size} ranks did: "
        "read the log of that node"
    )
