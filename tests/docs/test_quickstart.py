"""The quickstart notebook runs from top to bottom, with a small model in place of the demonstration's."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.inference.tiny_models import model_folder

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "quickstart.ipynb"


def executed(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell as a notebook does and returns the value of its last expression; None if it ends otherwise."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)  # it is our own notebook
    if not isinstance(last, ast.Expr):
        return None
    names["_"] = None
    assignment = ast.Assign([ast.Name("_", ast.Store())], last.value)
    exec(compile(ast.fix_missing_locations(ast.Module([assignment], [])), str(NOTEBOOK), "exec"), names)
    return names["_"]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALBEF_MODEL", str(model_folder(tmp_path, "pretrain")))
    monkeypatch.setenv("ALBEF_FOLDER", str(tmp_path / "quickstart"))
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    values = [executed("".join(cell["source"]), names) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert values[1] == 10 and len(values[2]) == 3 and values[3].shape == (2,)
    assert isinstance(values[4], Image.Image) and values[5] == 0
    assert not values[6].equal(values[3]), "fine-tuning has changed the model"
    assert all(cell.get("outputs", []) == [] for cell in content["cells"]), "the notebook is kept without outputs"
