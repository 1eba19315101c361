"""Preflight: before training, one process per node checks the node, and the head names the unfit nodes.

Under `srun --ntasks-per-node=1` all nodes connect to MASTER_ADDR, ALBEF_PREFLIGHT_PORT; without Slurm only this machine is
checked. `node.py` checks a node, `compare.py` compares the reports, `report_exchange.py` transports them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from albef_ds.common.atomic_files import write_file
from albef_ds.common.errors import MachineError
from albef_ds.common.exit_codes import BAD_NODE
from albef_ds.config.schema import RunConfig
from albef_ds.launch.checks.compare import Comparison, compare, table
from albef_ds.launch.checks.node import NONCE, NodeReport, as_report, check_node
from albef_ds.launch.checks.report_exchange import Client, Head

_MEGABYTES = {"nccl": 256, "gloo": 16}
_ROUNDS = 5


@dataclass(frozen=True)
class Place:
    """Position of this process among the nodes of a job."""

    nodes: tuple[str, ...]
    number: int
    address: str
    port: int
    """Port of the head for the reports."""
    training_port: int
    """Port for the all-reduce now and training later. It is reserved for the job, unlike a port that is found free."""
    job: str

    @property
    def node(self) -> str:
        """This node's name."""
        return self.nodes[self.number]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        """Reads the variables that Slurm and the batch script set; without them, the job is this machine alone.

        Raises:
            MachineError: the Slurm step was not started by the shipped scripts.
        """
        if "SLURM_PROCID" not in environment or "ALBEF_NODES" not in environment:
            return cls((socket.gethostname(),), 0, "127.0.0.1", 0, 0, f"local-{os.getpid()}")
        try:
            nodes = tuple(environment["ALBEF_NODES"].split())
            number, port = int(environment["SLURM_PROCID"]), int(environment["ALBEF_PREFLIGHT_PORT"])
            job = f"{environment['SLURM_JOB_ID']}.{environment.get('SLURM_RESTART_COUNT', '0')}"
            return cls(nodes, number, environment["MASTER_ADDR"], port, int(environment["MASTER_PORT"]), job)
        except (KeyError, ValueError) as error:
            raise MachineError(f"{error} is missing or not a number: submit slurm/preflight.sbatch, which sets it") from None


def run(
    config: RunConfig,
    place: Place,
    *,
    seconds: float = 60.0,
    min_free_gb: float = 10.0,
    scratch: str = "",
    all_reduce: bool = True,
    bad_nodes: Path | None = None,
) -> int:
    """Checks all nodes of `place` for a run of `config`; the head prints one line per node.

    Args:
        seconds: time for every node's report.
        min_free_gb: GB that must be free.
        scratch: node-local folder for staged shards, empty for none.
        all_reduce: measure a small all-reduce over all nodes if everything else is fine.
        bad_nodes: file for the names of unfit nodes, one per line; created only if there are any.

    Returns:
        0, or BAD_NODE if some nodes are unfit.

    Raises:
        UserError: every node is unfit (the text has the first fault), or the head cannot be reached.
    """
    shared = Path(config.output).absolute() / f"preflight-{place.job}"

    def report_to_head(port: int) -> None:
        client = Client(place.address, port, place.node, seconds)
        report = check_node(config, place.node, shared=shared, nonce=client.nonce, min_free_gb=min_free_gb, scratch=scratch)
        report.clock_offset = client.clock_offset()
        answer = client.report(asdict(report))
        if "port" in answer:
            try:
                report.bandwidth = measure_all_reduce(place, int(answer["port"]), cpu=config.engine.device == "cpu")
            except Exception as error:  # any error of the network library is this node's fault
                report.faults.append(f"all-reduce: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            client.report(asdict(report))
        client.close()

    if place.number != 0:
        report_to_head(place.port)
        return 0
    nonce = secrets.token_hex(8)
    _prepare(shared, nonce)
    head = Head(place.port, place.nodes, nonce)
    own = threading.Thread(target=report_to_head, args=(head.port,), daemon=True)
    try:
        own.start()
        reports, compared = _gather_and_compare(head, place, seconds, all_reduce)
        own.join(timeout=seconds)
    finally:
        head.close()
        shutil.rmtree(shared, ignore_errors=True)
    print(table(place.nodes, reports, compared), flush=True)
    return _exit_code(compared, bad_nodes)


def _gather_and_compare(head: Head, place: Place, seconds: float, all_reduce: bool) -> tuple[dict[str, NodeReport], Comparison]:
    reports = {node: as_report(entry) for node, entry in head.gather(seconds).items()}
    compared = compare(place.nodes, reports, seconds)
    if compared.faults or not all_reduce or len(place.nodes) == 1:
        head.answer({})
        return reports, compared
    head.answer({"port": place.training_port})
    reports = {node: as_report(entry) for node, entry in head.gather(2 * seconds).items()}
    head.answer({})
    return reports, compare(place.nodes, reports, 2 * seconds)


def _prepare(shared: Path, nonce: str) -> None:
    try:
        shared.mkdir(parents=True, exist_ok=True)
        write_file(shared / NONCE, nonce)
    except OSError as error:
        raise MachineError(f"output {shared.parent} cannot be written ({error.strerror}): give another folder") from None


def _exit_code(compared: Comparison, bad_nodes: Path | None) -> int:
    if not compared.faults:
        return 0
    if not compared.bad_nodes:
        node, faults = next(iter(compared.faults.items()))
        raise MachineError(f"no node is fit for this run: {node}: {faults[0]}")
    if bad_nodes is not None:
        write_file(bad_nodes, "".join(f"{node}\n" for node in compared.bad_nodes))
    return BAD_NODE


def measure_all_reduce(place: Place, port: int, *, cpu: bool) -> float:
    """Returns the bus bandwidth in GB/s of an all-reduce with one process per node (on its first GPU if it has one).

    It is computed as in nccl-tests: bytes / seconds x 2 (n - 1) / n.
    """
    import torch  # start-up time
    import torch.distributed as dist

    backend = "nccl" if not cpu and torch.cuda.is_available() else "gloo"
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    ranks, where = len(place.nodes), f"tcp://{place.address}:{port}"
    dist.init_process_group(backend, init_method=where, rank=place.number, world_size=ranks, timeout=timedelta(seconds=60))
    try:
        values = torch.ones(_MEGABYTES[backend] * 2**20 // 4, device=device)
        started = 0.0
        for turn in range(_ROUNDS + 1):
            if turn == 1:  # the first all-reduce opens the connections
                values[0].item()  # waits for it
                started = time.perf_counter()
            dist.all_reduce(values)
            values /= ranks  # exact: every number is 1 again, for any number of nodes and rounds
        mean = float(values[0].item())
        seconds = time.perf_counter() - started
        if not bool((values == 1.0).all()):
            raise ValueError(f"the sum over {ranks} nodes is {ranks * mean}, not {ranks}")
        return values.nbytes * _ROUNDS / seconds * 2 * (ranks - 1) / ranks / 1e9
    finally:
        dist.destroy_process_group()
