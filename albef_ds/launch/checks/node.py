"""Checks one node before training: shards, checkpoint folder, free disk, GPUs, versions.

`compare.py` does the comparisons with other nodes. torch is not imported, so a node answers within a second or two.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import albef_ds
from albef_ds.common.errors import UserError
from albef_ds.common.urls import is_corpus_url
from albef_ds.config.schema import DataConfig, RunConfig
from albef_ds.data.store.open import open_corpus

PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "safetensors")
NONCE = "nonce"
"""File that the head node writes into the run's folder, to check that the other nodes see it."""

_VISIBLE_AFTER = 5.0  # seconds that a network file system may take to show another node's file


@dataclass
class NodeReport:
    """Answer of one node. `faults` are problems that prevent training; the rest is compared with the other nodes."""

    node: str
    faults: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    """Must be the same everywhere: versions, digest of the source, digest of the manifest, number of GPUs."""
    clock_offset: float = 0.0
    """Seconds by which this node's clock is ahead of the head's."""
    free_gb: dict[str, float] = field(default_factory=dict)
    bandwidth: float | None = None
    """GB/s of the all-reduce, None if there was none."""


def check_node(config: RunConfig, node: str, *, shared: Path, nonce: str, min_free_gb: float, scratch: str = "") -> NodeReport:
    """Checks this node, named `node`, for a run of `config` and returns its report.

    Args:
        shared: folder inside the run's folder in which the head wrote `nonce` and each node writes a file with its name.
        nonce: text that the head wrote.
        min_free_gb: GB that must be free for checkpoints, and in `scratch`.
        scratch: node-local folder for staged shards, may contain variables of the node; empty: none.
    """
    report = NodeReport(node)
    for name, given in (("shards", config.data.corpora), ("eval_shards", [config.data.eval_shards])):
        for corpus in given:
            _check_shards(report, name, corpus, config.data)
    _check_shared_folder(report, shared, nonce)
    check_free(report, "checkpoints", shared, min_free_gb)
    if scratch:
        check_free(report, "scratch", Path(os.path.expandvars(scratch)), min_free_gb)
    check_gpus(report, config)
    report.facts |= versions()
    return report


def versions() -> dict[str, str]:
    """Returns the versions of Python and the packages that affect results, and a digest of this package's source."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    digest = hashlib.sha256()
    root = Path(albef_ds.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return {**found, "albef_ds": f"{albef_ds.__version__} ({digest.hexdigest()[:12]})"}


def _check_shards(report: NodeReport, name: str, given: str, data: DataConfig) -> None:
    """Opens a corpus as training does: manifest, every shard's size, and one sample's bytes."""
    folder = Path(os.path.expandvars(given))
    if not given or (not is_corpus_url(given) and not folder.is_dir() and any(mark in given for mark in (".tar", "{", ":"))):
        return  # not given, or plain tars, which are not checked
    try:
        reader = open_corpus(os.path.expandvars(given), data)
        reader.read(0, 0)
        reader.close()
    except UserError as error:
        report.faults.append(f"data.{name}: {error}")
        return
    except OSError as error:
        report.faults.append(f"data.{name}: {folder} cannot be read ({error.strerror})")
        return
    digest = hashlib.sha256(repr(reader.manifest).encode()).hexdigest()[:12]
    report.facts[f"data.{name}"] = f"{report.facts.get(f'data.{name}', '')} {digest}".strip()


def _check_shared_folder(report: NodeReport, shared: Path, nonce: str) -> None:
    deadline = time.monotonic() + _VISIBLE_AFTER
    try:
        while not (shared / NONCE).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        if not (shared / NONCE).exists() or (shared / NONCE).read_text(encoding="utf-8") != nonce:
            report.faults.append(f"output: {shared.parent} is another folder than on the head node: use a shared file system")
            return
        (shared / report.node).write_text(nonce, encoding="utf-8")
    except OSError as error:
        report.faults.append(f"output: {shared.parent} cannot be written ({error.strerror})")


def check_free(report: NodeReport, name: str, folder: Path, min_free_gb: float) -> None:
    """Checks the free disk space of `folder`, or of the parent in which it would be created."""
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    try:
        free = shutil.disk_usage(existing).free / 1e9
    except OSError as error:
        report.faults.append(f"{name}: {folder} cannot be read ({error.strerror})")
        return
    report.free_gb[name] = round(free, 1)
    if free < min_free_gb:
        report.faults.append(f"{name}: {free:.1f} GB are free in {existing}, {min_free_gb:g} GB are needed")


def check_gpus(report: NodeReport, config: RunConfig) -> None:
    """Checks with nvidia-smi that the GPUs of the allocation are present and have no uncorrected memory errors."""
    if config.engine.device == "cpu":
        return
    program = shutil.which("nvidia-smi")
    fields = "index,name,ecc.errors.uncorrected.volatile.total"
    rows: list[list[str]] = []
    if program is not None:
        query = [program, f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            report.faults.append("GPU: nvidia-smi hangs: the node needs a restart")
            return
        if done.returncode:
            report.faults.append(f"GPU: nvidia-smi fails: {' '.join((done.stderr or done.stdout).split())[:120]}")
            return
        rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    report.facts["GPUs"] = _count(rows)
    wanted = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    if len(rows) < max(wanted, int(config.engine.device == "cuda")):
        report.faults.append(f"GPU: {len(rows)} of {wanted or 1} GPUs are present")
    for index, _, errors in (row for row in rows if len(row) == 3):
        if errors.isdecimal() and int(errors):
            report.faults.append(f"GPU: number {index} has {errors} uncorrected memory errors")


def _count(rows: list[list[str]]) -> str:
    names = Counter(row[1] if len(row) > 1 else "unknown" for row in rows)
    return ", ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "none"


def as_report(entry: dict[str, Any]) -> NodeReport:
    """Returns a report that arrived over the network. Raises TypeError if it is not a report."""
    return NodeReport(**entry)
