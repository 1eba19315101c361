"""`make downstream` in small: all stages end to end in this process, and one through the `deepspeed` launcher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from benchmarks.downstream import STAGES, downstream, launch_deepspeed, run_stage
from tests.data_tools.scenes.tiny import SETTINGS

LOCAL = ("engine.kind=local", "engine.momentum_storage=dense", "train.micro_batch_size=8", "train.global_batch_size=8")


def test_every_stage_runs_from_one_pretrained_checkpoint_and_is_scored_beside_its_ceilings(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launched: list[str] = []

    def launch(arguments: list[str], ranks: int, log: Path) -> int:
        launched.append(arguments[1])
        return main(["train", *arguments])

    table, spent = downstream(tmp_path, scenes, SETTINGS, 1, 0.0, LOCAL, launch)
    assert launched == [f"scenes_{stage.name}" for stage in STAGES] and list(spent) == [stage.name for stage in STAGES]
    assert {row["task"] for row in table} == {"retrieval", "vqa", "nlvr", "entailment", "grounding"}
    assert all(0.0 <= row["score"] <= 100.0 and row["passed"] in ("yes", "no") and row["at most"] for row in table)
    assert next(row["floor"] for row in table if row["task"] == "vqa") == 57.2
    lineage = json.loads((tmp_path / "nlvr" / "metrics.json").read_text())["lineage"]
    assert [step["recipe"] for step in lineage] == ["scenes_pretrain", "scenes_nlvr_pretrain", "scenes_nlvr"]
    # What has ended is not run again.
    again, _ = downstream(tmp_path, scenes, SETTINGS, 1, 0.0, LOCAL, launch)
    assert again == table and len(launched) == len(STAGES)


@pytest.mark.timeout(900)
def test_a_stage_trains_through_the_deepspeed_launcher_on_two_ranks(tmp_path: Path, scenes: Path) -> None:
    stage = next(stage for stage in STAGES if stage.name == "entailment")
    # Without the stage that it starts from: weights at random.
    alone = type(stage)(stage.name, "", stage.steps, stage.settings)
    settings = ["train.max_steps=1", "train.micro_batch_size=4", "train.global_batch_size=8", "train.epochs=1"]
    run_stage(alone, tmp_path, scenes, 2, settings, launch_deepspeed)
    assert (tmp_path / "entailment" / "checkpoints" / "step-0000001").is_dir()
    assert "2 x cpu" in (tmp_path / "logs" / "entailment.log").read_text()
