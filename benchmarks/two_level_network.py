"""Measures steps over a two-level network, compares them with the throughput model, and with another version of the code.

    python -m benchmarks.two_level_network --out benchmarks/two_level_network
    git worktree add /tmp/before COMMIT && python -m benchmarks.two_level_network --before /tmp/before ...

Nodes are network namespaces, ranks are processes (`network.py` has the link between nodes). Every setting is measured over an
undelayed link, which gives the computation of a step, and over links with a delay and a rate; links and versions take turns. The
model predicts what a link adds, from the link's delay and rate, and from the rate that the undelayed link reaches, since every
frame passes a thread of `network.py`: the bytes are in the first measurement already, at that rate.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.network import DEVICE, TwoLevelNetwork, missing
from benchmarks.record import record_parser, write_record
from benchmarks.two_level_rank import configuration

ROOT = Path(__file__).resolve().parent.parent
_PORT = 29500
_KNOBS: dict[int, dict[str, Any]] = {
    0: {},
    1: {"overlap_comm": True, "reduce_bucket_size": 400_000},
    2: {"overlap_comm": True, "reduce_bucket_size": 400_000},
    3: {
        "overlap_comm": True,
        "reduce_bucket_size": 400_000,
        "stage3_prefetch_bucket_size": 400_000,
        "stage3_param_persistence_threshold": 0,
    },
}
"""ZeRO knobs per stage, with buckets that cut the small model into as many messages as a real one."""
_MOMENTUM_BUCKET = 50_000


@dataclass(frozen=True)
class Wire:
    """A link between nodes: milliseconds one way, Mbit/s per node."""

    delay: float = 0.0
    rate: float = math.inf


@dataclass(frozen=True)
class Setting:
    """What is measured: `nodes` of `per_node` ranks, and the engine."""

    nodes: int
    per_node: int
    stage: int
    group: str

    @property
    def world_size(self) -> int:
        """All ranks."""
        return self.nodes * self.per_node

    @property
    def layout(self) -> str:
        """Nodes and ranks of each, as on the command line."""
        return f"{self.nodes}x{self.per_node}"


@dataclass
class Steps:
    """Seconds of each turn, and what the last one answered."""

    seconds: list[float] = field(default_factory=list)
    sent: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


class Ranks:
    """One process per rank of one version of the code."""

    def __init__(self, network: TwoLevelNetwork, per_node: int, tree: Path, port: int) -> None:
        world_size = per_node * len(network.names)
        file = str(ROOT / "benchmarks" / "two_level_rank.py")
        program = [sys.executable, "-c", f"import runpy; runpy.run_path({file!r}, run_name='__main__')"]
        self._processes = []
        for rank in range(world_size):
            node, local = divmod(rank, per_node)
            places = {"RANK": rank, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": per_node, "WORLD_SIZE": world_size}
            meeting = {"MASTER_ADDR": network.address(0), "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": DEVICE}
            own = {"PYTHONPATH": tree, "OMP_NUM_THREADS": 1, "DS_ACCELERATOR": "cpu"}
            environment = {**os.environ, **{name: str(value) for name, value in {**places, **meeting, **own}.items()}}
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._processes.append(
                subprocess.Popen([*network.command(node), *program], env=environment, cwd=tree, text=True, **pipes)
            )

    def ask(self, *order: Any) -> list[dict[str, Any]]:
        """Returns every rank's answer."""
        for process in self._processes:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in self._processes]
        if not all(answers):
            sys.exit(f"benchmarks.two_level_network: a rank ended at {order}: run benchmarks/two_level_rank.py to see why")
        return [json.loads(answer) for answer in answers]

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def _cluster(nodes: int, per_node: int, trees: Sequence[Path]) -> Iterator[tuple[TwoLevelNetwork, list[Ranks]]]:
    with TwoLevelNetwork(nodes) as network:
        versions = [Ranks(network, per_node, tree, _PORT + number) for number, tree in enumerate(trees)]
        try:
            yield network, versions
        finally:
            for ranks in versions:
                ranks.close()


def measure(
    network: TwoLevelNetwork, versions: list[Ranks], setting: Setting, wires: list[Wire], rounds: int, steps: int, folder: Path
) -> tuple[list[list[Steps]], list[float], float]:
    """Returns the steps of each version over each wire, the bytes between nodes of each version's momentum forward pass, and the
    bytes per second that the undelayed link reaches."""
    engine = _engine(setting, folder)
    found = [[Steps() for _ in wires] for _ in versions]
    sent = []
    network.delay, network.rate = 0.0, math.inf
    for ranks in versions:
        ranks.ask("build", engine)
        ranks.ask("steps", 3)  # DeepSpeed and the momentum model learn the order of modules
        sent.append(max(answer["sent"] for answer in ranks.ask("momentum")))
    reached = min(answer["rate"] for answer in versions[0].ask("reach"))
    for _ in range(rounds):
        for number, wire in enumerate(wires):
            network.delay, network.rate = wire.delay / 1e3, wire.rate * 1e6 / 8
            for ranks, own in zip(versions, found, strict=True):
                answers = ranks.ask("steps", steps)
                own[number].seconds.append(max(answer["seconds"] for answer in answers))
                own[number].sent, own[number].losses = answers[0]["sent"], answers[0]["losses"]
    return found, sent, reached


def _engine(setting: Setting, folder: Path) -> dict[str, Any]:
    file = folder / f"{setting.stage}.json"
    file.write_text(json.dumps({"zero_optimization": _KNOBS[setting.stage]}))
    return {
        "stage": setting.stage,
        "ds_config": str(file) if setting.stage else "",
        "momentum_group": setting.group,
        "momentum_bucket_size": _MOMENTUM_BUCKET,
    }


def predict(setting: Setting, wire: Wire, undelayed: float, reached: float, folder: Path) -> float:
    """Returns the seconds of a step over `wire` that takes `undelayed` seconds where a node reaches `reached` bytes a second."""
    from albef_ds.launch.planning.hardware import Hardware, Link, Overlap  # start-up time
    from albef_ds.launch.planning.parameter_counts import count
    from albef_ds.launch.planning.throughput import forecast

    slower = 8e-6 / wire.rate - 1 / reached
    between = Link(1 / slower / setting.per_node if slower > 0 else math.inf, wire.delay / 1e3)
    # DeepSpeed on a CPU waits for the collectives that it starts.
    hardware = Hardware(
        "gloo", 1.0, 1.0, 1.0, setting.per_node, Link(math.inf, 0.0), between,
        trees=False, scatters=False, announced=True, in_flight=2, overlap=Overlap(gradients=False, parameters=False),
    )  # fmt: skip
    config = configuration(setting.world_size, _engine(setting, folder))
    return forecast(config, count(config), hardware, setting.world_size, compute=undelayed).step


def rows_of(setting: Setting, wires: list[Wire], found: list[list[Steps]], reached: float, folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of one setting."""
    rows = []
    for number, wire in enumerate(wires):
        own = found[0][number]
        planned = predict(setting, wire, found[0][0].median, reached, folder) if number else 0.0
        row = {
            "nodes x ranks": f"{setting.nodes} x {setting.per_node}",
            "stage": setting.stage,
            "momentum group": setting.group,
            "delay, ms": f"{wire.delay:g}",
            "Mbit/s": f"{wire.rate:g}" if wire.rate < math.inf else "no limit",
            "sent per node, MB": f"{own.sent / 1e6:.1f}",
            "step, s": f"{own.median:.2f}",
            "predicted, s": f"{planned:.2f}" if number else "calibration",
            "predicted / measured": f"{planned / own.median:.2f}" if number else "",
        }
        if len(found) > 1:
            before = found[1][number]
            row["before, s"] = f"{before.median:.2f}"
            row["step / before"] = f"{own.median / before.median:.2f}"
            row["losses"] = "equal" if own.losses == before.losses else f"{_difference(own.losses, before.losses):.0e} apart"
        rows.append(row)
    return rows


def predict_again(arguments: argparse.Namespace) -> None:
    """Writes a record with the measurements of earlier ones and the present model's predictions."""
    rows: dict[Setting, list[dict[str, Any]]] = {}
    momentum: dict[str, float] = {}
    reached: dict[str, float] = {}
    commands: list[str] = []
    for file in arguments.measured:
        found = json.loads(file.read_text())
        commands.append(f"`{found['command']}`, {found['hardware']}")
        momentum |= found["momentum_bytes"]
        reached |= found.get("undelayed_bytes_per_second", {})
        settings: dict[Setting, list[dict[str, Any]]] = {}
        for row in found["rows"]:
            settings.setdefault(_setting(row), []).append(row)
        rows |= settings
    again = [row for file in arguments.repeats for row in json.loads(file.read_text())["rows"]]
    with tempfile.TemporaryDirectory() as name:
        for own in rows.values():
            _plan_anew(own, reached, Path(name))
        _plan_anew(again, reached, Path(name))
    order = sorted(rows, key=lambda setting: (-setting.per_node, setting.stage, setting.group))
    ratios: dict[str, list[str]] = {}
    for row in again:
        named = [row[name] for name in ("stage", "momentum group", "delay, ms", "Mbit/s")]
        cell = "{}, stage {}, {}, {} ms, {} Mbit/s".format(_setting(row).layout, *named)
        ratios.setdefault(cell, []).extend([row["predicted / measured"]] if row["predicted / measured"] else [])
    commands += [f"{cell}, in other sittings predicted / measured {', '.join(found)}" for cell, found in ratios.items() if found]
    _record(arguments, [row for setting in order for row in rows[setting]], momentum, reached, commands)


def _plan_anew(rows: list[dict[str, Any]], reached: dict[str, float], folder: Path) -> None:
    """Sets the predictions of measured rows; each setting's first row is that of the undelayed link."""
    undelayed = 0.0
    for row in rows:
        if not row["predicted / measured"]:
            undelayed = float(row["step, s"])
            continue
        setting = _setting(row)
        planned = predict(setting, _wire(row), undelayed, reached[setting.layout], folder)
        row["predicted, s"] = f"{planned:.2f}"
        row["predicted / measured"] = f"{planned / float(row['step, s']):.2f}"


def _setting(row: dict[str, Any]) -> Setting:
    nodes, per_node = map(int, row["nodes x ranks"].split(" x "))
    return Setting(nodes, per_node, row["stage"], row["momentum group"])


def _wire(row: dict[str, Any]) -> Wire:
    return Wire(float(row["delay, ms"]), math.inf if row["Mbit/s"] == "no limit" else float(row["Mbit/s"]))


def _difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    return max(abs(ours[name] - theirs[name]) for name in ours)


def main() -> None:
    """Measures, predicts and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--layouts", nargs="+", default=["2x2", "4x1"], help="nodes x ranks of each")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--groups", nargs="+", default=["node", "world"])
    parser.add_argument("--wires", nargs="+", default=["1:400", "5:400", "5:100", "20:400"], help="milliseconds:Mbit/s of each")
    parser.add_argument("--rounds", type=int, default=3, help="turns through the links (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps per turn (%(default)s)")
    parser.add_argument("--before", type=Path, help="a tree with another version of the code, measured side by side")
    again = "predict the steps of earlier records anew instead of measuring; of a setting in several the last one counts"
    parser.add_argument("--measured", type=Path, nargs="+", metavar="JSON", help=again)
    repeats = "with --measured: further sittings of some settings, of which the record lists predicted / measured alone"
    parser.add_argument("--repeats", type=Path, nargs="+", default=[], metavar="JSON", help=repeats)
    arguments = parser.parse_args()
    if arguments.measured:
        predict_again(arguments)
        return
    if reason := missing():
        print(f"benchmarks.two_level_network: skipped, {reason}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the namespaces go with the program
    wires = [Wire(), *(Wire(*map(float, wire.split(":"))) for wire in arguments.wires)]
    rows: list[dict[str, Any]] = []
    momentum: dict[str, float] = {}
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for layout in arguments.layouts:
            nodes, per_node = map(int, layout.split("x"))
            trees = [ROOT, *([arguments.before.resolve()] if arguments.before else [])]
            with _cluster(nodes, per_node, trees) as (network, versions):
                for stage in arguments.stages:
                    for group in arguments.groups:
                        setting = Setting(nodes, per_node, stage, group)
                        found, sent, reached = measure(
                            network, versions, setting, wires, arguments.rounds, arguments.steps, Path(name)
                        )
                        momentum |= {f"{layout}, stage {stage}, {group}": sent[0]}
                        rates[layout] = max(reached, rates.get(layout, 0.0))
                        rows += rows_of(setting, wires, found, reached, Path(name))
                        print(f"{setting}: {[one.median for own in found for one in own]}, momentum {sent}", flush=True)
                        _record(arguments, rows, momentum, rates)  # keeps these measurements if a later one is stopped


def _record(
    arguments: argparse.Namespace,
    rows: list[dict[str, Any]],
    momentum: dict[str, float],
    reached: dict[str, float],
    commands: Sequence[str] = (),
) -> None:
    errors = [abs(float(row["predicted / measured"]) - 1) for row in rows if row["predicted / measured"]]
    inside = [num_bytes for name, num_bytes in momentum.items() if name.endswith("node")]
    facts: dict[str, Any] = {"largest_error": max(errors), "mean_error": statistics.mean(errors), "momentum_bytes": momentum}
    facts["undelayed_bytes_per_second"] = reached
    rates = ", ".join(f"{rate / 1e6:.0f} MB/s in {layout}" for layout, rate in reached.items())
    mean = statistics.mean(errors)
    notes = [f"Largest error of a prediction: {max(errors):.0%}; on average {mean:.0%} over {len(errors)} cells."]
    if inside:
        spread = f"{min(inside):.0f} to {max(inside):.0f} bytes"
        notes.append(f"Between nodes a momentum model's forward pass with the group `node` sent {spread}:")
        notes.append("TCP acknowledgements of the barrier before it, frames of 66 bytes without data.")
    notes += [
        "A model of ALBEF base's depth in small widths, 1.4M parameters in fp32, micro-batch 2, gloo; single-threaded ranks.",
        "A node is a network namespace; a frame between nodes is delayed one way and serialised at the rate of the node's port.",
        "Each figure is the median of the turns (`--rounds`); links and versions take turns. The computation is that of the",
        "first row of each setting, whose link has neither delay nor limit: it has no error. Every frame passes a thread, so it",
        f"reaches {rates} in collectives of 4 MB, and its row holds the bytes at this rate. The",
        "prediction adds what the model computes from delay, rate, messages and bytes; no number is fitted. Gloo announces each",
        "step of a collective, and makes a reduce-scatter of an all-reduce. TCP uses Reno's congestion control.",
    ]
    if commands:
        notes += ["", "Measured by, of a setting in several the last one:", "", *(f"- {command}" for command in commands)]
    write_record(arguments.out, "Steps over a two-level network", notes, rows, ["torch", "deepspeed"], facts)


if __name__ == "__main__":
    main()
