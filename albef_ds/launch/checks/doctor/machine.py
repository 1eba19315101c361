"""Checks the machine: GPUs, network, disk, shared memory, Slurm, and the environment variables about them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from albef_ds.common.device import multiplies_bf16
from albef_ds.common.processes import free_port
from albef_ds.config.schema import RunConfig
from albef_ds.engine.zero.setup import LAUNCH_VARIABLES
from albef_ds.launch.checks.doctor.finding import Finding
from albef_ds.launch.checks.node import NodeReport, check_free, check_gpus
from albef_ds.launch.checks.preflight import Place, measure_all_reduce
from albef_ds.launch.local_ranks import visible_cores

MIN_FREE_GB = 10.0
MIN_SHARED_GB = 1.0
SLOW_DISK = 100.0
"""MB/s below which a checkpoint of the base model takes over a minute."""
_PROBE_BYTES = 64 << 20
_BASE_CHECKPOINT_GB = 3.5
"""Weights, two moments and the momentum copy (benchmarks/checkpoint.md)."""
_NETWORK_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def devices() -> Iterator[Finding]:
    """Checks the processor, the GPUs, and that torch and the driver agree on them."""
    bf16 = "fast bf16" if multiplies_bf16(torch.device("cpu")) else "no fast bf16"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding("processor", "ok", f"{visible_cores()} cores, {bf16}, OMP_NUM_THREADS {threads}")
    report = NodeReport(socket.gethostname())
    check_gpus(report, RunConfig())
    for fault in report.faults:
        yield Finding("GPU", "mend", fault.removeprefix("GPU: "), "leave this machine out, or ask its administrator")
    listed, seen = report.facts.get("GPUs", "none"), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not seen and listed != "none":
        yield Finding("GPU", "mend", f"nvidia-smi lists {listed}, torch {torch.__version__} sees none", _no_gpu_advice())
    elif not seen:
        yield Finding("GPU", "note", "none", "training runs on the CPU, which suits small experiments only")
    for number in range(seen):
        properties, device = torch.cuda.get_device_properties(number), torch.device("cuda", number)
        bf16 = "bf16" if multiplies_bf16(device) else "no bf16"
        kind = f"{properties.name}, {properties.total_memory / 2**30:.0f} GB, {bf16}"
        yield Finding(f"GPU {number}", "ok", f"{kind}, CUDA {torch.version.cuda}")
    if seen and os.environ.get("DS_ACCELERATOR") == "cpu":
        yield Finding("DS_ACCELERATOR", "mend", "is cpu, so DeepSpeed does not use the GPUs", "unset DS_ACCELERATOR")


def network() -> Iterator[Finding]:
    """Checks launch variables, interfaces, InfiniBand, and runs an all-reduce of one process."""
    given = [name for name in LAUNCH_VARIABLES if name in os.environ]
    if given and (missing := [name for name in LAUNCH_VARIABLES if name not in os.environ]):
        found = f"{', '.join(given)} set, {', '.join(missing)} not"
        yield Finding("launch variables", "mend", found, f"unset {' '.join(given)}, or start with torchrun")
    names = [name for _, name in socket.if_nameindex()]
    up = [name for name in names if name != "lo" and _read(Path("/sys/class/net") / name / "operstate") == "up"]
    for variable in _NETWORK_VARIABLES:
        wanted = [part.lstrip("^=") for part in os.environ.get(variable, "").split(",") if part and not part.startswith("^")]
        unknown = [part for part in wanted if not any(name.startswith(part) for name in names)]
        if unknown:
            advice = f"set it to one of {', '.join(names)}, or unset it"
            yield Finding(variable, "mend", f"names {', '.join(unknown)}, which does not exist", advice)
    shown = ", ".join(f"{name}{_speed(name)}" for name in up) or "only the loopback is up"
    yield Finding("interfaces", "ok" if up else "note", shown, "" if up else "one machine only")
    yield from _infiniband()
    yield _all_reduce()


def _infiniband() -> Iterator[Finding]:
    ports = sorted(Path("/sys/class/infiniband").glob("*/ports/*"))
    for port in ports:
        name = f"InfiniBand {port.parts[-3]}"
        state = _read(port / "state")
        if "ACTIVE" in state:
            yield Finding(name, "ok", _read(port / "rate") or "active")
        else:
            yield Finding(name, "note", f"port {port.name} is {state or 'unknown'}", "check its cable and switch")
    if not ports:
        yield Finding("InfiniBand", "note", "none", "several machines communicate over Ethernet, which slows large runs down")


def _all_reduce() -> Finding:
    backend = "NCCL" if torch.cuda.is_available() else "gloo"
    place = Place((socket.gethostname(),), 0, "127.0.0.1", 0, 0, "doctor")
    try:
        measure_all_reduce(place, free_port(), cpu=backend == "gloo")
    except Exception as error:  # any error of the network library is a finding
        reason = " ".join(str(error).split())[:160]
        advice = "set GLOO_SOCKET_IFNAME=lo, or give this host's name an address in /etc/hosts"
        if backend == "NCCL":
            advice = "run again with NCCL_DEBUG=INFO, which shows where it stops"
        return Finding(f"all-reduce by {backend}", "mend", f"{type(error).__name__}: {reason}", advice)
    version = ""
    if backend == "NCCL":
        version = " " + ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return Finding(f"all-reduce by {backend}{version}", "ok", "one process, right sum; `albef-ds preflight` checks several nodes")


def disk(folder: Path) -> Iterator[Finding]:
    """Checks space and speed of the disk of `folder`, shared memory for the loader, the cache for compiled operators."""
    report = NodeReport("")
    check_free(report, "disk", folder, MIN_FREE_GB)
    for fault in report.faults:
        advice = f"a checkpoint of the base model takes {_BASE_CHECKPOINT_GB} GB"
        yield Finding("disk", "note", fault.removeprefix("disk: "), advice)
    written, read = disk_speed(folder)
    speed = f"writes {written:.0f} MB/s, reads {read:.0f} MB/s in {folder}, {report.free_gb.get('disk', 0.0):g} GB free"
    advice = f"a checkpoint of the base model takes {1000 * _BASE_CHECKPOINT_GB / written:.0f} s: use a faster disk"
    yield Finding("disk speed", "note", speed, advice) if written < SLOW_DISK else Finding("disk speed", "ok", speed)
    shared = shutil.disk_usage("/dev/shm").free / 1e9 if Path("/dev/shm").is_dir() else 0.0
    if shared < MIN_SHARED_GB:
        advice = "start the container with --shm-size=8g, or set data.num_workers=0"
        yield Finding("shared memory", "mend", f"{shared:.2f} GB free, which loader processes need", advice)
    else:
        yield Finding("shared memory", "ok", f"{shared:.1f} GB free")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    if os.access(place, os.W_OK):
        yield Finding("cache", "ok", str(cache / "albef_ds"))
    else:
        yield Finding("cache", "mend", f"{place} cannot be written", "set XDG_CACHE_HOME to a writable folder")


def disk_speed(folder: Path) -> tuple[float, float]:
    """Returns MB/s of writing (synced) and of reading back (not from the page cache) one temporary file in `folder`.

    Raises:
        OSError: the folder cannot be written.
    """
    path, block = folder / f".albef-doctor.{os.getpid()}.tmp", os.urandom(1 << 20)
    try:
        started = time.perf_counter()
        with open(path, "wb", buffering=0) as file:
            for _ in range(_PROBE_BYTES >> 20):
                file.write(block)
            os.fsync(file.fileno())
        written = time.perf_counter() - started
        with open(path, "rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while file.read(1 << 20):
                pass
            read = time.perf_counter() - started
    finally:
        path.unlink(missing_ok=True)
    return _PROBE_BYTES / 1e6 / written, _PROBE_BYTES / 1e6 / read


def slurm() -> Iterator[Finding]:
    """Checks whether jobs can be submitted from here."""
    if shutil.which("sbatch") is None:
        yield Finding(
            "Slurm", "note", "no sbatch here", "`albef-ds submit` needs a login node; train and demo work without Slurm"
        )
        return
    try:
        done = subprocess.run(["sinfo", "--noheader", "--format=%P %D"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("Slurm", "mend", f"sinfo does not answer ({type(error).__name__})", "ask the cluster's administrator")
        return
    if done.returncode:
        reason = " ".join(done.stderr.split())[:120]
        yield Finding("Slurm", "note", f"installed, no controller answers ({reason})", "run this on a login node of the cluster")
        return
    partitions = ", ".join(f"{name} ({nodes} nodes)" for name, nodes in map(str.split, done.stdout.splitlines()))
    yield Finding("Slurm", "ok", partitions or "no partition")


def _no_gpu_advice() -> str:
    if torch.version.cuda is None:
        return "install a build of torch with CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu126"
    return f"the driver must fit CUDA {torch.version.cuda}, and CUDA_VISIBLE_DEVICES must name existing GPUs"


def _speed(interface: str) -> str:
    text = _read(Path("/sys/class/net") / interface / "speed")
    return f" ({int(text) / 1000:g} Gbit/s)" if text.isdecimal() else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # for example, an interface that is down has no speed
        return ""
