"""Compares the throughput model with measured steps of ranks in network namespaces with throttled links.

    python -m benchmarks.cost_model --out benchmarks/cost_model

Needs root on Linux, iproute2 and the tbf queueing discipline; it only changes namespaces that it creates. Each rank is a
single-threaded process with its own link to a bridge, throttled in both directions. The computation of a step is measured for
every stage and number of ranks over unthrottled links, because ranks share this machine's cores. The model predicts the time
added by throttling from the formula's bytes and the measured rate of one all-reduce and one all-gather of 4 MB over the same
links. The bytes sent by a rank are read from its interface.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from albef_ds.config.schema import RunConfig
from benchmarks.record import record_parser, write_record

PORT = 29500
"""Port of the rendezvous: in new namespaces every port is free."""
SUBNET = "10.77.0"
_NEW_NETWORK = 0x40000000
_MICRO_BATCH = 2
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
"""Setting of a process's namespace. Reno is in every kernel, and its step times are reproducible."""
_SCHEDULE = {"alpha": 0.4}

_PROBE = 4_000_000
"""Bytes of the tensor whose all-reduce and all-gather measure a link's rate."""

Turn = list[tuple[float, float, float]]
"""For each round: seconds of a step, bytes sent by a rank in it, bytes per second sent by the probe."""


class Network:
    """A bridge, and a throttled link to it from the namespace of each rank."""

    def __init__(self, world_size: int) -> None:
        self.hub = f"albef-{os.getpid()}-hub"
        self.ranks = [f"albef-{os.getpid()}-{rank}" for rank in range(world_size)]

    def __enter__(self) -> Network:
        for name in [self.hub, *self.ranks]:
            _ip("netns", "add", name)
        _ip("-n", self.hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.hub, "link", "set", "bridge", "up")
        for number, name in enumerate(self.ranks):
            port = f"port{number}"
            _ip("-n", self.hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self.hub, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{SUBNET}.{number + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self.ranks, self.hub]:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def throttle(self, megabit: int | None) -> None:
        """Limits every link to `megabit` Mbit/s per direction; None removes the limit."""
        links = [(name, "eth0") for name in self.ranks]
        links += [(self.hub, f"port{number}") for number in range(len(self.ranks))]
        for namespace, device in links:
            subprocess.run(["tc", "-n", namespace, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)
            if megabit:
                limits = ["rate", f"{megabit}mbit", "burst", "64kb", "latency", "200ms"]
                subprocess.run(["tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *limits], check=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _sent_bytes() -> int:
    """Bytes that this process's eth0 has sent."""
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("eth0:"))
    return int(line.split(":")[1].split()[8])


def _serve(connection: Connection, namespace: str, rank: int, world_size: int) -> None:
    """Runs one rank: enters the namespace, then builds engines and takes steps on request."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    _CONGESTION.write_text("reno")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), OMP_NUM_THREADS="1")
    os.environ.update(MASTER_ADDR=f"{SUBNET}.1", MASTER_PORT=str(PORT), GLOO_SOCKET_IFNAME="eth0")
    import torch

    from albef_ds.data import mock
    from tests.engine.zero.common import make

    torch.set_num_threads(1)
    engine: Any = None
    batches: list[Any] = []
    while (order := connection.recv()) is not None:
        if isinstance(order, RunConfig):
            engine, batches = None, [mock.pairs(order)]
            _, engine = make(order)
            connection.send(None)
            continue
        torch.distributed.barrier()
        sent, start = _sent_bytes(), time.perf_counter()
        for _ in range(order):
            engine.train_step(batches, _SCHEDULE, 1e-4)
        torch.distributed.barrier()
        seconds, sent = time.perf_counter() - start, _sent_bytes() - sent
        connection.send((seconds / order, sent / order, _probe(world_size)))


def _probe(world_size: int) -> float:
    """Bytes per second sent by this rank in an all-reduce and an all-gather."""
    import torch

    from albef_ds.common import comm

    part = torch.zeros(_PROBE // 4 // world_size)
    start = time.perf_counter()
    comm.all_reduce_sum(comm.all_gather(part))
    torch.distributed.barrier()
    return 3 * _PROBE * (world_size - 1) / world_size / (time.perf_counter() - start)


@contextmanager
def ranks(network: Network) -> Iterator[list[Connection]]:
    """Connections to one process per rank; the processes end with the block."""
    context = multiprocessing.get_context("spawn")
    world_size = len(network.ranks)
    processes, connections = [], []
    for rank, namespace in enumerate(network.ranks):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, namespace, rank, world_size), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        connections.append(ours)
    try:
        yield connections
        for connection in connections:
            connection.send(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()
            process.join()


def ask(connections: list[Connection], order: RunConfig | int) -> list[Any]:
    """Sends `order` to every rank; returns the answers."""
    for connection in connections:
        connection.send(order)
    return [connection.recv() for connection in connections]


def measure(config: RunConfig, world_size: int, rates: list[int | None], rounds: int, steps: int) -> dict[int, list[Turn]]:
    """Stage -> rounds of each rate (Mbit/s per link, None: not throttled); the rates take turns."""
    found: dict[int, list[Turn]] = {}
    with Network(world_size) as network, ranks(network) as connections:
        for stage in (1, 2, 3):
            network.throttle(None)
            ask(connections, at_stage(config, stage, world_size))
            ask(connections, 3)  # ZeRO-3 learns the order of the modules
            turns: list[Turn] = [[] for _ in rates]
            for _ in range(rounds):
                for number, rate in enumerate(rates):
                    network.throttle(rate)
                    answers = ask(connections, steps)
                    seconds, sent, rate_reached = zip(*answers, strict=True)
                    turns[number].append((max(seconds), statistics.mean(sent), min(rate_reached)))
            found[stage] = turns
            medians = [round(statistics.median(one[0] for one in turn), 2) for turn in turns]
            print(f"{world_size} ranks, stage {stage}: {medians} s", flush=True)
    return found


def at_stage(config: RunConfig, stage: int, world_size: int) -> RunConfig:
    """`config` for a stage and a number of ranks."""
    train = replace(config.train, global_batch_size=config.train.micro_batch_size * world_size)
    return replace(config, train=train, engine=replace(config.engine, stage=stage, precision="fp32"))


def main() -> None:
    """Measures, predicts and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rates", type=int, nargs="+", default=[80, 40, 20], help="Mbit/s per link and direction")
    parser.add_argument("--rounds", type=int, default=3, help="turns through the rates (%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="steps per turn (%(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the namespaces go with the program
    if os.geteuid() != 0:
        sys.exit("benchmarks.cost_model: making network namespaces needs root: run it as root, or in a container of your own")
    import torch

    from albef_ds.engine.zero.setup import prepare_environment

    prepare_environment(torch.device("cpu"))
    from tests.launch.planning.census import few_million

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = few_million(Path(folder))
        config = replace(config, train=replace(config.train, micro_batch_size=_MICRO_BATCH, global_batch_size=_MICRO_BATCH))
        for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(variable, None)
        for world_size in arguments.ranks:
            rates = [None, *(arguments.rates if world_size > 1 else [])]
            found = measure(config, world_size, rates, arguments.rounds, arguments.steps)
            for stage, turns in found.items():
                rows += compare(at_stage(config, stage, world_size), world_size, rates, turns)
            record(arguments, rows)  # keeps these measurements if a larger one is stopped


def record(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Writes the rows so far."""
    errors = [abs(float(row["predicted / measured"]) - 1) for row in rows if row["predicted / measured"]] or [0.0]
    notes = [
        f"Largest error of a prediction: {max(errors):.0%}; on average {statistics.mean(errors):.0%} over {len(errors)} runs.",
        f"A model of 2.8M parameters in fp32, micro-batch {_MICRO_BATCH}, gloo; a single-threaded process and network namespace",
        f"per rank. Each figure is the median of {arguments.rounds} turns of {arguments.steps} step(s); the rates take turns.",
        "Computation is taken from `not throttled`, because ranks share the cores: that row has no error. A link's rate is that",
        f"of one all-reduce and one all-gather of {_PROBE / 1e6:.0f} MB after each step. Gloo implements reduce-scatter by",
        "all-reduce, so ZeRO-3's gradients are sent twice. Only bandwidth is throttled: the latency is this machine's. TCP uses",
        "Reno's congestion control.",
    ]
    facts = {"largest_error": max(errors), "mean_error": statistics.mean(errors)}
    write_record(arguments.out, "The throughput model against throttled links", notes, rows, ["torch", "deepspeed"], facts)


def compare(config: RunConfig, world_size: int, rates: list[int | None], turns: list[Turn]) -> list[dict[str, Any]]:
    """The rows of one stage and number of ranks."""
    from albef_ds.launch.planning.hardware import Hardware, Link, Overlap
    from albef_ds.launch.planning.parameter_counts import count
    from albef_ds.launch.planning.throughput import forecast

    measured, sent, reached = ([statistics.median(one[what] for one in turn) for turn in turns] for what in range(3))
    counts = count(config)
    rows = []
    for number, rate in enumerate(rates):
        link = Link(reached[number] if rate else math.inf, 0.0)
        # DeepSpeed on a CPU waits for the collectives it starts; the momentum model's prefetch overlaps.
        overlap = Overlap(gradients=False, parameters=False)
        gloo = Hardware("gloo", 1.0, 1.0, 1.0, 1, link, link, trees=False, scatters=False, overlap=overlap)
        planned = forecast(config, counts, gloo, world_size, compute=measured[0])
        num_bytes = sum(exchange.num_bytes for exchange in planned.exchanges)
        rows.append(
            {
                "ranks": world_size,
                "stage": config.engine.stage,
                "Mbit/s per link": rate or "not throttled",
                "reached": f"{reached[number] * 8e-6:.1f}" if rate else "",
                "measured, s": f"{measured[number]:.3f}",
                "predicted, s": f"{planned.step:.3f}" if rate else "calibration",
                "predicted / measured": f"{planned.step / measured[number]:.2f}" if rate else "",
                "sent per rank, MB": f"{sent[number] / 1e6:.2f}",
                "by formula, MB": f"{num_bytes / 1e6:.2f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
