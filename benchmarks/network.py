"""Joins network namespaces, one per node, by a link with a delay and a rate: the two levels of a cluster on one machine.

Ranks in one namespace talk over its loopback device, which is fast. Between namespaces every Ethernet frame passes a thread of
this process, which reads it from the sender's TAP device and writes it to the receiver's when it has been serialised at the
rate and delayed. TCP, the kernel's sockets and gloo are the real ones. It does not need the kernel's netem, which many kernels
lack, but root, Linux, iproute2 and /dev/net/tun. It only changes namespaces that it creates.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SUBNET = "10.78.0"
DEVICE = "eth0"
_MTU = 9000
_TUN, _SET_NAME = Path("/dev/net/tun"), 0x400454CA
_ETHERNET_FRAMES, _NO_HEADER = 0x0002, 0x1000
# No address is looked up and no idle connection starts slowly again: a quiet link carries nothing, a busy one its full rate.
_SYSCTLS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv4/tcp_congestion_control": "reno",
    "ipv4/tcp_slow_start_after_idle": "0",
    "ipv4/tcp_no_metrics_save": "1",
}


def missing() -> str:
    """Returns why such a network cannot be made here, or an empty text."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if not _TUN.exists():
        return "/dev/net/tun is missing"
    name = f"albef-{os.getpid()}-try"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "the command ip (iproute2) is missing"
    if made.returncode:
        return f"ip netns add failed: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


class TwoLevelNetwork:
    """`nodes` namespaces with the addresses `SUBNET`.1, .2 ..., joined by a switch whose `delay` and `rate` may be changed.

    Attributes:
        delay: seconds of each frame between two nodes, one way.
        rate: bytes per second that one node can send.
    """

    def __init__(self, nodes: int) -> None:
        self.names = [f"albef-{os.getpid()}-{node}" for node in range(nodes)]
        self.delay, self.rate = 0.0, float("inf")
        self._files: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._switch, daemon=True)

    def address(self, node: int) -> str:
        """Returns a node's address."""
        return f"{SUBNET}.{node + 1}"

    def command(self, node: int) -> list[str]:
        """Returns the words that run a command on a node."""
        return ["ip", "netns", "exec", self.names[node]]

    def __enter__(self) -> TwoLevelNetwork:
        for node, name in enumerate(self.names):
            _run("ip", "netns", "add", name)
            tap = f"alb{os.getpid() % 10**7}t{node}"
            self._files.append(_open_tap(tap))
            _run("ip", "link", "set", tap, "address", _hardware_address(node), "netns", name, "name", DEVICE)
            settings = "; ".join(f"echo {value} > /proc/sys/net/{key}" for key, value in _SYSCTLS.items())
            _run(*self.command(node), "sh", "-c", settings)
            _run("ip", "-n", name, "addr", "add", f"{self.address(node)}/24", "dev", DEVICE)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "link", "set", DEVICE, "mtu", str(_MTU), "up")
            for other in range(len(self.names)):
                if other != node:
                    known = [self.address(other), "lladdr", _hardware_address(other), "dev", DEVICE, "nud", "permanent"]
                    _run("ip", "-n", name, "neigh", "add", *known)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident:
            self._thread.join()
        for file in self._files:
            os.close(file)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _switch(self) -> None:
        """Passes frames on until the network is closed."""
        with contextlib.suppress(OSError):  # a frame must not wait for a processor; without the right it may
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        node_of = {bytes.fromhex(_hardware_address(node).replace(":", "")): node for node in range(len(self._files))}
        source_of = {file: node for node, file in enumerate(self._files)}
        idle_at = [0.0] * len(self._files)
        waiting: list[tuple[float, int, int, bytes]] = []
        number = 0
        while not self._stop.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, target, frame = heapq.heappop(waiting)
                os.write(self._files[target], frame)
            pause = max(0.0, waiting[0][0] - now) if waiting else 0.05
            for file in select.select(self._files, [], [], pause)[0]:
                for frame in _frames(file):
                    if (target := node_of.get(frame[:6], -1)) < 0:
                        continue
                    source, now = source_of[file], time.monotonic()
                    idle_at[source] = max(now, idle_at[source]) + len(frame) / self.rate
                    heapq.heappush(waiting, (idle_at[source] + self.delay, number, target, frame))
                    number += 1


def _frames(file: int) -> Iterator[bytes]:
    """Yields the frames that are ready, a bounded number of them."""
    for _ in range(64):
        try:
            yield os.read(file, 1 << 16)
        except BlockingIOError:
            return


def _open_tap(name: str) -> int:
    file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _SET_NAME, struct.pack("16sH", name.encode(), _ETHERNET_FRAMES | _NO_HEADER))
    return file


def _hardware_address(node: int) -> str:
    return f"02:00:00:00:00:{node + 1:02x}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
