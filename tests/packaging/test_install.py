"""The source archive builds a wheel, and the wheel works in an environment that has never seen the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("albef_ds", "data_tools", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


def call(command: Sequence[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | variables
    done = subprocess.run(list(command), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(kind: str, source: Path, folder: Path, **variables: str) -> Path:
    """The file that the build backend makes of `source`."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    call([sys.executable, "-c", code, str(folder)], source, **variables)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, tree)
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


def unpacked(archive: Path, folder: Path) -> Path:
    """The sources in the archive."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    [source] = folder.iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the archive, so what the archive lacks is missed."""
    return build("wheel", unpacked(archive, tmp_path_factory.mktemp("unpacked")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel; the packages it needs are lent from here."""
    folder = tmp_path_factory.mktemp("environment")
    call([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    call([*pip, "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)], folder)
    [packages] = folder.glob("lib/python*/site-packages")
    # Only the folder itself: a checkout that is installed here stays unknown there.
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    kept = {path.relative_to(ROOT).as_posix() for name in ("albef_ds", "data_tools") for path in (ROOT / name).rglob("*.py")}
    kept |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "albef_ds" / "assets").iterdir() if path.is_file()}
    kept |= {"albef_ds/py.typed", "data_tools/py.typed"}
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    assert kept <= held, sorted(kept - held)
    assert all(name.partition("/")[0] in ("albef_ds", "data_tools") or ".dist-info/" in name for name in held)


def compiled_parts(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        return [name for name in file.namelist() if name.endswith(".so")]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_wheel_holds_the_loops_in_c(wheel: Path) -> None:
    names = sorted(compiled_parts(wheel))
    assert [name.partition(".")[0] for name in names] == [
        "albef_ds/data/images/_box_means",
        "albef_ds/data/images/_pixel_loops",
        "albef_ds/engine/zero/_momentum_loop",
    ]


def test_a_wheel_is_built_without_a_compiler(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "wheel").mkdir()
    source = unpacked(archive, tmp_path / "source")
    assert compiled_parts(build("wheel", source, tmp_path / "wheel", CC=str(tmp_path / "missing"))) == []


def test_the_metadata_names_programs_extras_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(file.read(name).decode())
        programs = file.read(name.replace("METADATA", "entry_points.txt")).decode()
        assert any(entry.endswith("licenses/LICENSE") for entry in file.namelist())
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {"corpus", "dask", "data", "demo", "dev", "onnx"} <= extras
    requirements = metadata.get_all("Requires-Dist") or []
    assert all(any(f'extra == "{extra}"' in requirement for requirement in requirements) for extra in extras)
    assert "albef-ds = albef_ds.cli.main:main" in programs and "albef-data = data_tools.cli:main" in programs


def test_the_installed_commands_work_far_from_the_repository(environment: Path, tmp_path: Path) -> None:
    shown = call([str(environment / "albef-ds"), "--help"], tmp_path).stdout
    assert "usage: albef-ds COMMAND" in shown and "train" in shown
    assert "train.max_steps=20" in call([str(environment / "albef-ds"), "config", "--recipe", "debug"], tmp_path).stdout
    assert "usage: albef-data" in call([str(environment / "albef-data"), "--help"], tmp_path).stdout


def test_importing_the_installed_package_loads_neither_torch_nor_deepspeed(environment: Path, tmp_path: Path) -> None:
    heavy = "{'torch', 'deepspeed', 'numpy', 'transformers'}"
    code = f"import sys, albef_ds; print(albef_ds.__file__, *sorted({heavy} & sys.modules.keys()))"
    printed = call([str(environment / "python"), "-c", code], tmp_path).stdout.split()
    assert len(printed) == 1 and Path(printed[0]).is_relative_to(environment.parent)
