"""Images at evaluations show the right samples, and a run with them is bitwise equal to the run without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.engine.build import build_task
from albef_ds.evaluation import examples as evaluation_examples
from albef_ds.evaluation.examples import draw, read_examples
from tests.data.conftest import numbered_corpus
from tests.data_tools.scenes.tiny import tiny_config
from tests.faults import harness


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_corpus(tmp_path_factory.mktemp("data") / "corpus", 20, 20)


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    settings = [f"data.shards={corpus}", f"data.eval_shards={corpus}", "train.max_steps=5", "train.eval_every=2"]
    return ["train", "--recipe", "debug", *settings, "train.dry_run_batch=false", *more, "--output", str(output)]


def log(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "images_per_second", "tokens_per_second", "data_wait_share")
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def tags(run: Path) -> dict[str, list[int]]:
    """Names of the images in TensorBoard, with their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def test_a_run_with_pictures_is_the_run_without_them(corpus: Path, tmp_path: Path) -> None:
    assert main(arguments(corpus, tmp_path / "with", "train.eval_pictures=3")) == 0
    assert main(arguments(corpus, tmp_path / "without", "train.eval_pictures=0")) == 0
    assert log(tmp_path / "with") == log(tmp_path / "without")
    assert len(log(tmp_path / "with")) == 5 + 3
    # Time for images is excluded from the speed once, not twice.
    lines = (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()
    assert all(record.get("images_per_second", 0.0) < 1e6 for record in map(json.loads, lines))
    names = ("examples", "gradcam", "retrieval_grid")
    assert tags(tmp_path / "with") == {f"evaluation/{name}": [2, 4, 5] for name in names}
    assert tags(tmp_path / "without") == {}


def test_every_task_shows_its_examples(scenes: Path) -> None:
    expected = {
        "scenes_retrieval": {"examples", "retrieval_grid", "gradcam"},
        "scenes_grounding": {"examples", "retrieval_grid", "gradcam"},
        "scenes_vqa": {"examples"},
        "scenes_nlvr": {"examples"},
        "scenes_entailment": {"examples"},
    }
    for recipe, names in expected.items():
        config = tiny_config(recipe, scenes, "train.eval_pictures=3")
        examples = read_examples(config)
        assert examples is not None
        images, remark = draw(build_task(config), examples, torch.device("cpu"), batch_size=4)
        assert set(images) == names and remark == "", recipe
        for name, image in images.items():
            colours = image.getcolors(1 << 24)
            assert colours is not None and len(colours) > 50, (recipe, name)
        pictures = 2 if recipe == "scenes_nlvr" else 1
        assert images["examples"].width == 170 + pictures * 112 + 6 and images["examples"].height == 3 * 118


def test_the_picture_of_a_caption_is_outlined_where_it_is_found(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("scenes_retrieval", scenes, "train.eval_pictures=4")
    task, examples = build_task(config), read_examples(config)
    assert examples is not None
    features = torch.eye(len(examples.images))
    monkeypatch.setattr(task.model, "project_image", lambda embeds: features[torch.arange(len(embeds))])
    monkeypatch.setattr(task.model, "project_text", lambda embeds, mask: features[: len(embeds)])
    rows: list[Any] = []
    drawn = evaluation_examples._table
    monkeypatch.setattr(evaluation_examples, "_table", lambda found: rows.append(found) or drawn(found))
    evaluation_examples._grid(task, examples, torch.device("cpu"), batch_size=len(features))  # type: ignore[arg-type]
    assert [[marked for _, marked in cells] for _, cells in rows[0]] == [[True, False, False, False, False]] * 4


def test_sharded_parameters_get_the_grid_and_a_line_about_the_rest(corpus: Path, tmp_path: Path) -> None:
    sharded = ["engine.kind=zero", "engine.stage=3", "engine.momentum_storage=value_residual", "train.max_steps=2"]
    job = harness.start(tmp_path / "run", 1, arguments(corpus, tmp_path / "run", *sharded)[1:])
    assert job.join(300.0) == [0], job.errors()
    assert job.errors().count("Grad-CAM is not drawn: it needs whole parameters") == 1
    assert set(tags(tmp_path / "run")) == {"evaluation/examples", "evaluation/retrieval_grid"}
