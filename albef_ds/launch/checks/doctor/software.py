"""Compares installed versions with the declared and tested ones, and lists the kernels and optimizers that a run would use."""

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
from albef_ds.engine.zero import momentum_loop
from albef_ds.engine.zero.operators import operators
from albef_ds.engine.zero.optimizers import choose
from albef_ds.launch.checks.doctor.finding import Finding
from albef_ds.models.norms import choose_norm

DISTRIBUTION = "albef-ds"
COMPILERS = {"g++": "apt install g++", "ninja": "pip install ninja"}
REINSTALL = "apt install gcc; pip install --force-reinstall --no-deps of what you installed albef-ds from"
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")


def versions() -> Iterator[Finding]:
    """Checks Python and that every needed package is installed, new enough and of the tested version."""
    yield Finding("python", "ok", platform.python_version())
    tested = tested_set(Path(albef_ds.__file__).parents[1] / "constraints.txt")
    needed, extras = requirements()
    if not needed:
        yield Finding("packages", "note", "albef-ds runs from its source tree", "pip install -e . makes pip check the versions")
    for requirement in needed:
        yield check_version(requirement, _installed(requirement.name), tested.get(requirement.name.lower()))
    for extra, parts in extras.items():
        missing = [part.name for part in parts if _installed(part.name) is None]
        if missing:
            advice = f"pip install 'albef-ds[{extra}]' if you need it"
            yield Finding(f"extra {extra}", "note", f"{', '.join(missing)} not installed", advice)


def check_version(requirement: Requirement, version: str | None, tested: str | None) -> Finding:
    """Checks an installed `version` against `requirement` and the `tested` version; None means there is none."""
    name, wanted = requirement.name, f"'{requirement.name}{requirement.specifier}'"
    if version is None:
        return Finding(name, "mend", "not installed", f"pip install {wanted}")
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "mend", version, f"pip install --upgrade {wanted}")
    if tested is None or Version(version).public == Version(tested).public:
        return Finding(name, "ok", version)
    return Finding(name, "note", version, f"tested with {tested}; if there are problems, pip install {name}=={tested}")


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Returns the requirements of the installed package, always needed and by extra; both empty in a plain source tree."""
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
    """Returns package (lower case) -> version that the tests run with; empty without the file, which only a checkout has."""
    if not constraints.is_file():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(";")[0].strip().partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower(): version for name, _, version in pairs}


def kernels() -> Iterator[Finding]:
    """Reports the implementations of LayerNorm, AdamW and the fused losses of a run with the default settings."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield Finding("LayerNorm", "ok", f"{choose_norm('auto')} (compute.layer_norm=auto)")
    yield Finding("AdamW", "ok", f"{choose('auto', device)}, fused (optim.name=auto)")
    if importlib.util.find_spec("apex") is None:
        found = "not installed" if device.type == "cuda" else "not installed, and useful on a GPU only"
        yield Finding("apex", "note" if device.type == "cuda" else "ok", found, _apex_advice(device))
    elif nvidia_apex("optimizers", "FusedAdam") is None:
        advice = "pip uninstall apex, then build github.com/NVIDIA/apex with --cuda_ext"
        yield Finding("apex", "mend", "the package apex of PyPI, which is another project", advice)
    else:
        yield Finding("apex", "ok", "NVIDIA's, with FusedAdam")
    if importlib.util.find_spec("triton") is None:
        yield Finding("Triton", "note", "not installed, so compute.wide_losses=triton cannot be used", "pip install triton")
    elif device.type == "cpu":
        yield Finding("Triton", "ok", "installed, but its kernels need a GPU: compute.wide_losses=sliced is the same on a CPU")
    else:
        yield Finding("Triton", "ok", f"{_installed('triton')}, compute.wide_losses=triton can be used")


def compiled() -> Iterator[Finding]:
    """Checks what was compiled at installation, DeepSpeed's operators, which are compiled at first use, and their compilers."""
    if pixel_loops_c.LIBRARY is None:
        yield Finding("RandAugment", "note", "numpy's loops, which take about three times as long as those in C", REINSTALL)
    else:
        yield Finding("RandAugment", "ok", "loops in C")
    if momentum_loop.FORMS:
        yield Finding("momentum update", "ok", "on a CPU one pass in C")
    else:
        found = "on a CPU torch's, which takes several times as long as the loop in C (a compiler, and AVX2 or NEON)"
        yield Finding("momentum update", "note", found, REINSTALL)
    missing = [tool for tool in COMPILERS if shutil.which(tool) is None]
    if missing:
        advice = "; ".join(COMPILERS[tool] for tool in missing)
        found = f"no {', '.join(missing)}: optim.name=deepspeed_cpu and offload cannot be used"
        yield Finding("compilers", "note", found, advice)
    else:
        yield Finding("compilers", "ok", ", ".join(COMPILERS))
    if torch.cuda.is_available() and shutil.which("nvcc") is None and not os.environ.get("CUDA_HOME"):
        found = "no nvcc: optim.name=deepspeed_fused cannot be used"
        yield Finding("nvcc", "note", found, "install the CUDA toolkit that torch was built with, and set CUDA_HOME")
    installed, possible = operators()
    built = ", ".join(installed) or "none"
    yield Finding("DeepSpeed operators", "ok", f"built: {built}; built when needed: {', '.join(possible) or 'none'}")


def _apex_advice(device: torch.device) -> str:
    return "torch's LayerNorm and AdamW are used; for NVIDIA's build github.com/NVIDIA/apex" if device.type == "cuda" else ""


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
