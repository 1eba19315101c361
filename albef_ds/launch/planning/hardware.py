"""Describes clusters for the throughput model, with presets. The presets are assumptions, not measurements.

Peaks are the manufacturers' dense bf16 figures. Rates and bandwidths are typical for well-tuned transformer training of this
size; `albef-ds plan --rate`, `--network` and `--loader` replace them by measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from albef_ds.launch.planning.communication import Traffic


@dataclass(frozen=True)
class Link:
    """Connection between ranks."""

    bandwidth: float
    """Bytes per second that one rank can send while it receives as many."""
    latency: float
    """Seconds of an empty message from one rank to the next."""


@dataclass(frozen=True)
class Overlap:
    """Communication that overlaps with computation. On a CPU DeepSpeed overlaps none; only the momentum model's does."""

    gradients: bool = True
    """Reduction during the backward pass (`overlap_comm`)."""
    parameters: bool = True
    """ZeRO-3's fetches during forward and backward pass (prefetch)."""
    momentum: bool = True
    """Gathering the next units during the momentum model's forward pass, and what is sent ahead of the next step."""


@dataclass(frozen=True)
class Hardware:
    """One kind of cluster, one rank per GPU."""

    name: str
    peak: float
    """Dense bf16 FLOP/s of one GPU, the reference of utilisation."""
    rate: float
    """FLOP/s that one rank reaches in this model's forward and backward pass."""
    memory_bandwidth: float
    """Bytes per second of a GPU's memory, for the optimizer's and the momentum's updates."""
    per_node: int
    inside: Link
    """Link between ranks of a node."""
    between: Link
    """Link between nodes, the share of one rank."""
    images: float = math.inf
    """Images per second that a rank's loader processes prepare."""
    memory: float = 80 * 2**30
    """Bytes of a GPU's memory."""
    trees: bool = True
    """Whether an all-reduce may use a tree, as in NCCL, and not only a ring, as in gloo."""
    scatters: bool = True
    """Whether there is a real reduce-scatter; gloo reduces the whole tensor on every rank and keeps a part."""
    announced: bool = False
    """Whether the receiver announces each step of a collective to the sender, as in gloo but for tiny all-reduces: a step is then
    two messages, and as slow as the slowest link. NCCL writes into buffers that are free beforehand, so a piece waits only for
    the links on its own way."""
    in_flight: int = 1
    """Collectives that run at a time where several have been started: gloo has two threads, NCCL runs one after the other."""
    overlap: Overlap = Overlap()

    def node_size(self, world_size: int) -> int:
        """Returns the ranks of a node."""
        return min(world_size, self.per_node)

    def sent(self, traffic: Traffic, world_size: int) -> float:
        """Returns the bytes that each rank sends for `traffic`."""
        return traffic.sent(world_size) * (2 if traffic.operation == "reduce_scatter" and not self.scatters else 1)

    def seconds(self, operation: str, sent: float, calls: float, ranks: int) -> float:
        """Returns the seconds of `calls` collectives in which each of `ranks` consecutive ranks sends `sent` bytes.

        In a ring, an all-gather or reduce-scatter passes every rank once and an all-reduce twice; with `trees` an all-reduce goes
        up and down a tree if that is shorter.
        """
        if ranks == 1:
            return 0.0
        nodes = math.ceil(ranks / self.per_node)
        # Each rank of a node has its own ring to the next node, so all ports of the node serve every message; in an all-to-all
        # it sends its own rows.
        ports = 1 if operation == "all_to_all" else self.per_node
        slowest = self.inside.bandwidth if nodes == 1 else min(self.inside.bandwidth, ports * self.between.bandwidth)
        return sent / slowest + calls * self._latency(operation, ranks, nodes, tiny=sent < calls * _TINY)

    def _latency(self, operation: str, ranks: int, nodes: int, tiny: bool) -> float:
        """Returns the seconds of one empty collective."""
        if operation == "all_to_all":  # every rank speaks to every other one at once
            return (self.between if nodes > 1 else self.inside).latency
        reduces = operation == "all_reduce" or (operation == "reduce_scatter" and not self.scatters)
        if self.announced and not (reduces and tiny):
            slowest = self.between if nodes > 1 else self.inside
            return (2 if reduces else 1) * (ranks - 1) * 2 * slowest.latency
        if reduces:
            ring = self._hops(2 * (ranks - 1), nodes, ranks)
            tree = math.log2(nodes) * self.between.latency + math.log2(min(ranks, self.per_node)) * self.inside.latency
            return min(ring, 2 * tree) if self.trees else ring
        return self._hops(ranks - 1, nodes, ranks)

    def _hops(self, hops: int, nodes: int, ranks: int) -> float:
        """Returns the seconds of the slowest way of `hops` links along a ring, `nodes` of whose links are between nodes."""
        rounds, rest = divmod(hops, ranks)
        # The rest of a round may begin with a link between nodes, of which every `per_node`th is one.
        between = 0 if nodes == 1 else rounds * nodes + min(nodes, math.ceil(rest / self.per_node))
        return between * self.between.latency + (hops - between) * self.inside.latency


_TINY = 1000
"""Bytes below which gloo sends an all-reduce without announcing it: 8 were, 40,000 were not."""
_NVLINK_LATENCY, _INFINIBAND_LATENCY = 2e-6, 6e-6
_PER_CORE = 150.0
"""Images per second and core, 640 x 480 JPEG to 256 x 256: conservative, benchmarks/loader.md measured 195."""

_A100 = Hardware(
    name="8 x A100 per node, NVLink 3, 200 Gbit/s InfiniBand per GPU, 16 cores per GPU",
    peak=312e12,
    rate=0.40 * 312e12,
    memory_bandwidth=1.3e12,
    per_node=8,
    inside=Link(230e9, _NVLINK_LATENCY),
    between=Link(21e9, _INFINIBAND_LATENCY),
    images=16 * _PER_CORE,
)

PRESETS: dict[str, Hardware] = {
    "a100": _A100,
    "h100": Hardware(
        name="8 x H100 per node, NVLink 4, 400 Gbit/s InfiniBand per GPU, 14 cores per GPU",
        peak=989e12,
        rate=0.30 * 989e12,
        memory_bandwidth=2.6e12,
        per_node=8,
        inside=Link(360e9, _NVLINK_LATENCY),
        between=Link(42e9, _INFINIBAND_LATENCY),
        images=14 * _PER_CORE,
    ),
    "a100-ethernet": replace(
        _A100,
        name="8 x A100 per node, NVLink 3, one 100 Gbit/s Ethernet port per node, 16 cores per GPU",
        between=Link(11e9 / 8, 25e-6),
    ),
}
