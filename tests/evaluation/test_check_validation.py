"""What an evaluation would stumble over is refused before the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import UserError
from albef_ds.evaluation.evaluate import check_validation
from tests.data_tools.scenes.tiny import tiny_config


def _changed(scenes: Path, folder: Path, recipe: str, change: dict[str, Any]) -> str:
    """The settings' validation file with its second entry changed."""
    config = tiny_config(recipe, scenes)
    entries = json.loads(Path(config.data.eval_annotations.partition("+")[0]).read_text())
    path = folder / "val.json"
    if isinstance(entries, dict):
        entries["questions"][1] |= change
        path.write_text(json.dumps(entries))
        return f"{path}+{config.data.eval_annotations.partition('+')[2]}"
    entries[1] |= change
    path.write_text(json.dumps(entries))
    return str(path)


@pytest.mark.parametrize("text", ["", "  ", "?!", None, 7])
@pytest.mark.parametrize(
    ("recipe", "field"),
    [("scenes_retrieval", "caption"), ("scenes_entailment", "sentence"), ("scenes_nlvr", "sentence"), ("scenes_vqa", "question")],
)
def test_a_blank_or_odd_text_is_refused(recipe: str, field: str, text: object, scenes: Path, tmp_path: Path) -> None:
    check_validation(tiny_config(recipe, scenes))
    path = _changed(scenes, tmp_path, recipe, {field: text})
    with pytest.raises(UserError, match=r"empty after cleaning|must be"):
        check_validation(tiny_config(recipe, scenes, f"data.eval_annotations={path}"))


def test_an_answer_without_tokens_is_refused(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text(json.dumps(["red", ""]))
    with pytest.raises(UserError, match=r"answer '' of data\.answer_list has no tokens"):
        check_validation(tiny_config("scenes_vqa", scenes, f"data.answer_list={tmp_path / 'answers.json'}"))


def test_a_label_that_is_no_class_is_refused(scenes: Path) -> None:
    with pytest.raises(UserError, match=r"task\.num_classes is 2"):
        check_validation(tiny_config("scenes_entailment", scenes, "task.num_classes=2"))
