"""The architecture: packages from top to bottom, each of which imports only from those below it.

`FLOORS` names every entry of `albef_ds/`; README.md and docs/architecture.md are checked against it. Imports are read from the
syntax trees, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ORDER = (
    ("train", "cli"),
    ("training", "inference"),
    ("evaluation",),
    ("checkpoint", "launch"),
    ("engine",),
    ("tasks",),
    ("metrics",),
    ("models", "data"),
    ("config",),
    ("common",),
)
"""Floors from top to bottom. Packages on one floor do not import each other; only `train` is `cli` under a launcher."""
FLOORS = {name: floor for floor, names in enumerate(reversed(ORDER)) for name in names}
TOGETHER = ("train", "cli")
NO_CODE = ("__init__", "py.typed", "assets")
DATA_TOOLS_ORDER = (
    ("emoji",),
    ("cli", "pipeline"),
    ("stages", "scenes"),
    ("features",),
    ("readers", "execution", "matching"),
    ("files", "content"),
    ("config",),
)
DATA_TOOLS_FLOORS = {name: floor for floor, names in enumerate(reversed(DATA_TOOLS_ORDER)) for name in names}
DATA_TOOLS_MAY_IMPORT = (
    *("common.errors", "common.names", "common.atomic_files", "common.exit_codes", "common.progress", "common.urls"),
    *("data.store.objects", "data.shards", "data.broken", "data.images.box_means", "data.images.jpeg", "data.images.read"),
)
"""What data_tools shares with albef_ds; albef_ds imports nothing of data_tools."""
SCENES_COMMAND = "data_tools/scenes/command.py"
"""A command of `albef-ds` that writes a corpus: it may use that command line. `cli/main.py` names it in its table."""
FEATURES_MODEL = "data_tools/features/model.py"
"""The only file of data_tools that uses a model: it may import `albef_ds.inference`, inside functions."""
MATHEMATICS = ("models",)
REASONS = ("start-up", "optional package")
"""What a comment must say of an import inside a function."""
IMPORTS = (ast.Import, ast.ImportFrom)
DISTRIBUTION = ("torch.distributed", "torch.nn.parallel", "torch.multiprocessing")


def imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that the file imports; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = [] if node.level == 0 else parents[: len(parents) - node.level + 1]
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


def within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def fault(room: str, name: str, file: str = "") -> str | None:
    """What is wrong with `albef_ds/<room>` importing `name`, or None."""
    if room not in FLOORS:
        return f"{room} has no floor: give it one in tests/test_floors.py"
    if within(name, "deepspeed") and not file.startswith("albef_ds/engine/zero/"):
        return "deepspeed belongs to engine/zero/"
    if room in MATHEMATICS:
        if within(name, *DISTRIBUTION):
            return f"{room} knows nothing of distribution"
        top = name.partition(".")[0]
        if top not in ("albef_ds", "torch", "triton", "__future__") and top not in sys.stdlib_module_names:
            return f"{room} imports torch, Triton and the configuration"
    if within(name, "data_tools"):
        return "albef_ds imports nothing of data_tools"
    if not within(name, "albef_ds"):
        return None
    target = name.partition(".")[2].partition(".")[0]
    if target in ("", "__version__"):
        return None
    if target not in FLOORS:
        return f"{target} has no floor: give it one in tests/test_floors.py"
    if FLOORS[target] > FLOORS[room]:
        return f"{room} imports from {target} above it"
    if FLOORS[target] == FLOORS[room] and target != room and not {target, room} <= set(TOGETHER):
        return f"{room} and {target} are siblings"
    return None


def data_tools_fault(file: str, name: str) -> str | None:
    """What is wrong with the file of data_tools importing `name`, or None."""
    room = file.split("/")[1].removesuffix(".py")
    if room not in DATA_TOOLS_FLOORS:
        return f"{room} has no floor: give it one in tests/test_floors.py"
    if within(name, "albef_ds"):
        special = {SCENES_COMMAND: ("cli",), FEATURES_MODEL: ("inference",)}
        allowed = (*DATA_TOOLS_MAY_IMPORT, *special.get(file, ()))
        shared = within(name, *(f"albef_ds.{module}" for module in allowed))
        return None if shared else "data_tools shares shards and the reading of images only"
    if not within(name, "data_tools"):
        return None
    target = name.partition(".")[2].partition(".")[0]
    if target not in DATA_TOOLS_FLOORS:
        return f"{target} has no floor: give it one in tests/test_floors.py"
    if DATA_TOOLS_FLOORS[target] > DATA_TOOLS_FLOORS[room]:
        return f"{room} imports from {target} above it"
    return None


def violations(root: Path) -> list[str]:
    """Every import under `root` that breaks the order of the floors, one line each."""
    found = []
    for path in sorted([*root.glob("albef_ds/**/*.py"), *root.glob("data_tools/**/*.py")]):
        relative = path.relative_to(root)
        package, room = ".".join(relative.parent.parts), relative.parts[1].removesuffix(".py")
        if room == "__init__":
            continue
        for line, name in imports(path, package):
            ours = relative.parts[0] == "albef_ds"
            problem = fault(room, name, str(relative)) if ours else data_tools_fault(str(relative), name)
            if problem:
                found.append(f"{relative}:{line} imports {name}: {problem}")
    return found


def file_circles(root: Path) -> list[list[str]]:
    """Groups of files that import each other, at whatever depth."""
    paths = [*root.glob("albef_ds/**/*.py"), *root.glob("data_tools/**/*.py")]
    modules = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for _, target in imports(path, ".".join(path.relative_to(root).parent.parts)):
            while target and target not in modules:
                target = target.rpartition(".")[0]
            if target and target != name and not name.startswith(target + "."):
                graph[name].add(target)
    reach = {name: _reachable(graph, name) for name in graph}
    circles = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]}
    return [list(circle) for circle in sorted(circles)]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def late_imports(source: str) -> list[int]:
    """Lines of imports inside functions without a comment that gives the reason, at their line or the one before.

    Imports that follow one another share the comment of the first.
    """
    lines, found = source.splitlines(), set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                    for before, statement in pairwise([None, *body] if isinstance(body, list) else []):
                        if isinstance(statement, IMPORTS) and not isinstance(before, IMPORTS):
                            comments = [line.partition("#")[2] for line in lines[statement.lineno - 2 : statement.end_lineno]]
                            if not any(reason in comment for comment in comments for reason in REASONS):
                                found.add(statement.lineno)
    return sorted(found)


def test_an_import_inside_a_function_gives_its_reason() -> None:
    paths = sorted([*ROOT.glob("albef_ds/**/*.py"), *ROOT.glob("data_tools/**/*.py")])
    found = {str(path.relative_to(ROOT)): late_imports(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("import torch  # start-up time", []),
        ("# optional package\n    import torch\n    import onnx", []),
        ("import torch", [2]),
        ("import torch  # here: a circle", [2]),
        ("if x:\n        import torch", [3]),
    ],
)
def test_a_planted_late_import_is_caught(body: str, lines: list[int]) -> None:
    assert late_imports(f"def f(x):\n    {body}\n") == lines


def test_imports_go_down_only() -> None:
    assert violations(ROOT) == []


def test_no_files_import_each_other() -> None:
    assert file_circles(ROOT) == []


def test_every_entry_has_a_floor() -> None:
    entries = {path.name.removesuffix(".py") for path in (ROOT / "albef_ds").iterdir() if path.name != "__pycache__"}
    assert entries == {*FLOORS, *NO_CODE}
    tools = {path.name.removesuffix(".py") for path in (ROOT / "data_tools").iterdir() if path.name != "__pycache__"}
    assert tools == {*DATA_TOOLS_FLOORS, "__init__", "py.typed"}


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_pages_show_the_floors_in_this_order(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    block = next(part for part in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if "common/" in part)
    shown = re.findall(r"^  (\w+)(?:/|\.py) ", block, re.MULTILINE)
    assert [FLOORS[name] for name in shown] == sorted((FLOORS[name] for name in shown), reverse=True)
    assert set(shown) == set(FLOORS)
    tools = re.search(r"^data_tools/.*?(?=^\w|\Z)", block, re.MULTILINE | re.DOTALL)
    assert tools and all(f"{name}" in tools[0] for name in DATA_TOOLS_FLOORS)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("albef_ds/models/vit.py", "from albef_ds.tasks.pretrain import PretrainTask"),
        ("albef_ds/models/vit.py", "from ..common import comm\nimport torch.distributed"),
        ("albef_ds/models/vit.py", "def f():\n    import torch.distributed as dist"),
        ("albef_ds/models/losses/itc.py", "from transformers import BertModel"),
        ("albef_ds/models/losses/itc.py", "from albef_ds.data.batch import Batch"),
        ("albef_ds/engine/optim.py", "from deepspeed.ops.adam import FusedAdam"),
        ("albef_ds/config/schema.py", "from albef_ds import engine"),
        ("albef_ds/data/stream/corpus.py", "import albef_ds.training.trainer"),
        ("albef_ds/launch/local.py", "from albef_ds.checkpoint.find import newest"),
        ("albef_ds/engine/zero/engine.py", "from albef_ds.cli.main import main"),
        ("albef_ds/config/recipes/debug.py", "from albef_ds.models.albef import ALBEF"),
        ("albef_ds/new_room.py", "import albef_ds.common.errors"),
        ("albef_ds/cli/train.py", "from data_tools.stages.scan import scan"),
        ("data_tools/cli.py", "from albef_ds.config.schema import RunConfig"),
        ("data_tools/scenes/corpus.py", "from albef_ds.cli.arguments import CommandParser"),
        ("data_tools/files/storage.py", "from data_tools.stages.scan import scan"),
        ("data_tools/new_room.py", "import data_tools.cli"),
        ("data_tools/features/embed.py", "from albef_ds.inference.pairs import PairScorer"),
        ("data_tools/features/model.py", "from albef_ds.training.run import run"),
        ("data_tools/matching/clusters.py", "from data_tools.features.stored import StoredFeatures"),
    ],
)
def test_a_planted_import_is_caught(tmp_path: Path, file: str, source: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(source, encoding="utf-8")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("albef_ds/models/vit.py", "import math\nimport torch\nfrom torch.nn import functional"),
        ("albef_ds/models/losses/itc.py", "from albef_ds.config.schema import PretrainConfig"),
        ("albef_ds/engine/zero/engine.py", "import deepspeed\nfrom albef_ds.engine.interface import StepResult"),
        ("albef_ds/training/trainer.py", "from albef_ds.engine.zero.engine import ZeroEngine"),
        ("albef_ds/train.py", "from albef_ds.cli.main import main"),
        ("data_tools/cli.py", "from albef_ds.common.errors import ConfigError\nfrom albef_ds.data.shards.format import Manifest"),
        (SCENES_COMMAND, "from albef_ds.cli.arguments import CommandParser"),
        (FEATURES_MODEL, "def f():\n    from albef_ds.inference.model import load  # start-up time"),
    ],
)
def test_a_downward_import_passes(tmp_path: Path, file: str, source: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []


def test_a_planted_circle_is_caught(tmp_path: Path) -> None:
    for name, other in (("first", "second"), ("second", "first")):
        path = tmp_path / "albef_ds" / "models" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"from albef_ds.models import {other}", encoding="utf-8")
    assert file_circles(tmp_path) == [["albef_ds.models.first", "albef_ds.models.second"]]
