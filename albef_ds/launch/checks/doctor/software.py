"""Versions beside the declared and the tested ones, and which kernels and optimizers a run here would use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

import albef_ds
from albef_ds.common.apex import nvidia_apex
from albef_ds.data.images import pixel_loops_c
from albef_ds.engine.zero.inventory import operators
from albef_ds.engine.zero.optimizers import choose
from albef_ds.launch.checks.doctor.finding import Finding
from albef_ds.models.norms import choose_norm

DISTRIBUTION = "albef-ds"
COMPILERS = {"g++": "apt install g++", "ninja": "pip install ninja"}
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")


def versions() -> Iterator[Finding]:
    """Python, and every package that is needed: is it there, is it new enough, is it the one that was tested."""
    yield Finding("python", "ok", platform.python_version())
    tested = tested_set(Path(albef_ds.__file__).parents[1] / "constraints.txt")
    needed, extras = requirements()
    if not needed:
        yield Finding("packages", "note", "albef-ds runs from its source alone", "pip install -e . lets pip watch over versions")
    for requirement in needed:
        yield judge_version(requirement, _installed(requirement.name), tested.get(requirement.name.lower()))
    for extra, parts in extras.items():
        missing = [part.name for part in parts if _installed(part.name) is None]
        if missing:
            advice = f"pip install 'albef-ds[{extra}]', if it is wanted"
            yield Finding(f"extra {extra}", "note", f"{', '.join(missing)} not installed", advice)


def judge_version(requirement: Requirement, version: str | None, tested: str | None) -> Finding:
    """One package: `version` is what is installed, `tested` what the tests ran with; None where there is none."""
    name, wanted = requirement.name, f"'{requirement.name}{requirement.specifier}'"
    if version is None:
        return Finding(name, "mend", "not installed", f"pip install {wanted}")
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "mend", version, f"pip install --upgrade {wanted}")
    if tested is None or Version(version).public == Version(tested).public:
        return Finding(name, "ok", version)
    return Finding(name, "note", version, f"tested with {tested}; should something go wrong, pip install {name}=={tested}")


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the installed package declares: always needed, and by extra; empty where it runs from a folder of sources."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        declared = []
    needed, extras = [], dict[str, list[Requirement]]()
    for text in declared:
        requirement = Requirement(text)
        extra = _EXTRA.search(str(requirement.marker or ""))
        if extra is None:
            needed.append(requirement)
        elif extra[1] not in ("dev", "docs"):
            extras.setdefault(extra[1], []).append(requirement)
    return needed, extras


def tested_set(constraints: Path) -> dict[str, str]:
    """Package (lower case) -> version that the tests run with; empty without the file, which only a checkout has."""
    if not constraints.is_file():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(";")[0].strip().partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower(): version for name, _, version in pairs}


def kernels() -> Iterator[Finding]:
    """What computes LayerNorm, AdamW and the fused loss of a run with the default settings."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield Finding("LayerNorm", "ok", f"{choose_norm('auto')} (compute.layer_norm=auto)")
    yield Finding("AdamW", "ok", f"{choose('auto', device)}, fused (optim.name=auto)")
    if importlib.util.find_spec("apex") is None:
        found = "not installed" if device.type == "cuda" else "not installed, and of use on a GPU only"
        yield Finding("apex", "note" if device.type == "cuda" else "ok", found, _apex_advice(device))
    elif nvidia_apex("optimizers", "FusedAdam") is None:
        advice = "pip uninstall apex, then build github.com/NVIDIA/apex with --cuda_ext"
        yield Finding("apex", "mend", "the package apex of PyPI, another project", advice)
    else:
        yield Finding("apex", "ok", "NVIDIA's, with FusedAdam")
    if importlib.util.find_spec("triton") is None:
        yield Finding("Triton", "note", "not installed, so compute.wide_losses=triton cannot be used", "pip install triton")
    elif device.type == "cpu":
        yield Finding("Triton", "ok", "installed, its kernels need a GPU: compute.wide_losses=sliced is the same on a CPU")
    else:
        yield Finding("Triton", "ok", f"{_installed('triton')}, compute.wide_losses=triton can be used")


def compiled() -> Iterator[Finding]:
    """What installation compiled; DeepSpeed's operators, which are compiled at first use, and the compilers for them."""
    if pixel_loops_c.LIBRARY is None:
        advice = "apt install gcc; pip install --force-reinstall --no-deps of what you installed albef-ds from"
        yield Finding("RandAugment", "note", "numpy's loops, which take about three times as long as those in C", advice)
    else:
        yield Finding("RandAugment", "ok", "loops in C")
    missing = [tool for tool in COMPILERS if shutil.which(tool) is None]
    if missing:
        advice = "; ".join(COMPILERS[tool] for tool in missing)
        yield Finding(
            "compilers", "note", f"no {', '.join(missing)}: optim.name=deepspeed_cpu and offload cannot be used", advice
        )
    else:
        yield Finding("compilers", "ok", ", ".join(COMPILERS))
    if torch.cuda.is_available() and shutil.which("nvcc") is None and not os.environ.get("CUDA_HOME"):
        found = "no nvcc: optim.name=deepspeed_fused cannot be used"
        yield Finding("nvcc", "note", found, "install the CUDA toolkit that torch was built with, and set CUDA_HOME")
    installed, possible = operators()
    built = ", ".join(installed) or "none"
    yield Finding("DeepSpeed operators", "ok", f"built: {built}; built when asked for: {', '.join(possible) or 'none'}")


def _apex_advice(device: torch.device) -> str:
    return "torch's LayerNorm and AdamW serve; for NVIDIA's build github.com/NVIDIA/apex" if device.type == "cuda" else ""


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
