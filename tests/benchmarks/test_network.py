"""The link between two nodes delays what passes, sends at its rate, and carries nothing while nobody speaks."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from benchmarks.network import DEVICE, TwoLevelNetwork, missing

_SERVER = """
import socket
with socket.create_server(("0.0.0.0", 5000)) as server:
    print("ready", flush=True)
    while True:
        connection = server.accept()[0]
        while received := connection.recv(1 << 16):
            connection.sendall(received[-1:]) if received[-1:] == b"." else None
"""
_CLIENT = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 5000)) as connection:
    start = time.monotonic()
    connection.sendall(bytes(int(sys.argv[2])) + b".")
    connection.recv(1)
    print(time.monotonic() - start)
"""
_COUNTS = "for turn in $(seq 30); do cat /proc/net/dev; echo; sleep 0.1; done"


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_a_link_has_its_delay_and_its_rate_and_is_silent_otherwise() -> None:
    with TwoLevelNetwork(2) as network:
        server = subprocess.Popen([*network.command(1), sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)

        def answer(num_bytes: int) -> float:
            command = [*network.command(0), sys.executable, "-c", _CLIENT, network.address(1), str(num_bytes)]
            return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

        try:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            network.delay = 0.05
            assert answer(1) >= 0.1  # there and back
            network.delay, network.rate = 0.0, 1e6
            assert answer(100_000) >= 0.1
            counts = subprocess.run([*network.command(0), "sh", "-c", _COUNTS], capture_output=True, text=True).stdout.split(
                "\n\n"
            )
            assert all(DEVICE in count for count in counts[:-1])
            assert any(before == after for before, after in pairwise(counts))  # the connection's last packets may come late
        finally:
            server.kill()
            server.wait()
