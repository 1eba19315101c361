"""Ranks that do not start are named, with their host if it is known."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from albef_ds.common.errors import MachineError
from albef_ds.common.processes import free_port
from albef_ds.engine.zero import rendezvous
from albef_ds.engine.zero.rendezvous import connect


def _environment(rank: int, world_size: int, port: int, per_node: int = 1) -> dict[str, str]:
    names = {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": per_node,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in names.items()}


def test_the_missing_are_named_with_the_host_of_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two nodes with two ranks each only rank 0 starts. The minute passes at its first look, however slow the machine is."""
    ticks = iter([0.0, 61.0])
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with pytest.raises(MachineError) as caught:
        connect(60.0, _environment(0, 4, free_port(), per_node=2))
    said = str(caught.value)
    assert f"rank 1 on {socket.gethostname()}, rank 2 (no rank of its node started), rank 3" in said
    assert "train.start_limit" in said and "1 of 4 ranks did" in said


def test_ranks_that_come_share_a_store() -> None:
    port, stores = free_port(), dict[int, Any]()

    def come(rank: int) -> None:
        stores[rank] = connect(60.0, _environment(rank, 2, port))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[0].set("greeting", "hello")
    assert stores[1].get("greeting") == b"hello"


def test_without_rank_0_the_place_is_named() -> None:
    port = free_port()
    with pytest.raises(MachineError, match=rf"found no rank 0 at 127.0.0.1:{port} in train.start_limit"):
        connect(1.0, _environment(1, 2, port))
