"""Imports go down only: checked over the syntax trees, so an import inside a function counts too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS: dict[str, int] = {
    **dict.fromkeys(("config", "errors", "types", "comm", "device", "logging", "shard_format", "assets"), 0),
    **dict.fromkeys(("apex", "rendezvous", "exit_codes", "tensor_files", "unreadable", "pixels", "side_stream"), 0),
    **dict.fromkeys(("views", "allocator"), 0),
    **dict.fromkeys(("models", "losses", "kernels", "queue", "momentum", "engine", "optim", "task"), 1),
    **dict.fromkeys(("tasks", "data"), 2),
    **dict.fromkeys(("zero", "evaluators"), 3),
    **dict.fromkeys(("cli", "cluster", "doctor", "train"), 5),
}
COMPOSITION = 4  # build, trainer, checkpoint, recipes and whatever is not named above
SIBLINGS = (2, 3)  # floors whose packages do not know each other
MATHEMATICS = ("models", "losses")
MATHEMATICS_MAY_IMPORT = ("models", "losses", "kernels", "config", "errors", "apex", "unreadable")
RECIPES_MAY_IMPORT = ("recipes", "config", "errors")
DATA_TOOLS_MAY_IMPORT = ("shard_format", "errors")
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


def floor(room: str) -> int:
    return FLOORS.get(room, COMPOSITION)


def fault(room: str, name: str) -> str | None:
    """What is wrong with `albef_ds/<room>` importing `name`, or None."""
    if within(name, "deepspeed") and room != "zero":
        return "deepspeed belongs to zero/"
    if room in MATHEMATICS:
        if within(name, *DISTRIBUTION):
            return f"{room} knows nothing of distribution"
        top = name.partition(".")[0]
        if top not in ("albef_ds", "torch", "timm", "__future__") and top not in sys.stdlib_module_names:
            return f"{room} imports torch, timm and the configuration"
    if not within(name, "albef_ds"):
        return None
    _, _, inside = name.partition(".")
    target = inside.partition(".")[0]
    if room in MATHEMATICS and target not in MATHEMATICS_MAY_IMPORT:
        return f"{room} imports torch, timm and the configuration"
    if room == "recipes" and target not in RECIPES_MAY_IMPORT:
        return "recipes import the configuration only"
    if floor(target) > floor(room):
        return f"floor {floor(room)} imports from floor {floor(target)}"
    if floor(target) == floor(room) in SIBLINGS and target != room:
        return f"{room} and {target} are siblings"
    return None


def violations(root: Path) -> list[str]:
    """Every import under `root` that breaks the order of the floors, one line each."""
    found = []
    for path in sorted(root.glob("albef_ds/**/*.py")):
        relative = path.relative_to(root)
        package = ".".join(relative.parent.parts)
        room = relative.parts[1].removesuffix(".py")
        if room == "__init__":
            continue
        for line, name in imports(path, package):
            if problem := fault(room, name):
                found.append(f"{relative}:{line} imports {name}: {problem}")
    for path in sorted(root.glob("data_tools/**/*.py")):
        relative = path.relative_to(root)
        for line, name in imports(path, ".".join(relative.parent.parts)):
            if within(name, "albef_ds") and not within(name, *(f"albef_ds.{room}" for room in DATA_TOOLS_MAY_IMPORT)):
                found.append(f"{relative}:{line} imports {name}: data_tools shares the shard format only")
    return found


def test_imports_go_down_only() -> None:
    assert violations(ROOT) == []


def test_the_package_itself_imports_nothing() -> None:
    assert list(imports(ROOT / "albef_ds" / "__init__.py", "albef_ds")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("albef_ds/models/vit.py", "from albef_ds.tasks.pretrain import PretrainTask"),
        ("albef_ds/models/vit.py", "from .. import comm"),
        ("albef_ds/models/vit.py", "def f():\n    import torch.distributed as dist"),
        ("albef_ds/losses/itc.py", "from transformers import BertModel"),
        ("albef_ds/optim.py", "from deepspeed.ops.adam import FusedAdam"),
        ("albef_ds/config/schema.py", "from albef_ds import engine"),
        ("albef_ds/tasks/pretrain.py", "from ..data.stream import open_stream"),
        ("albef_ds/data/stream.py", "import albef_ds.trainer"),
        ("albef_ds/zero/engine.py", "from albef_ds.cli.main import main"),
        ("albef_ds/recipes/debug.py", "from albef_ds.models.albef import ALBEF"),
        ("data_tools/cli.py", "from albef_ds.config.schema import RunConfig"),
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
        ("albef_ds/models/vit.py", "import math\nimport torch\nfrom timm.layers import PatchEmbed"),
        ("albef_ds/losses/itc.py", "from albef_ds.config.schema import PretrainConfig"),
        ("albef_ds/zero/engine.py", "import deepspeed\nfrom albef_ds.engine import StepResult\nfrom albef_ds import comm"),
        ("albef_ds/trainer.py", "from albef_ds.zero.engine import ZeroEngine"),
        ("data_tools/cli.py", "from albef_ds.errors import ConfigError\nfrom albef_ds.shard_format import Manifest"),
    ],
)
def test_a_downward_import_passes(tmp_path: Path, file: str, source: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []
