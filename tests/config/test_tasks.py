"""Settings of the tasks: which task a file or an override means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.common.errors import ConfigError
from albef_ds.config.describe import describe
from albef_ds.config.files import from_dict, load, to_dict
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import (
    ClassificationConfig,
    PretrainConfig,
    RetrievalConfig,
    RunConfig,
    TextAssignmentConfig,
    VqaConfig,
)

KINDS = (
    PretrainConfig(queue_size=3),
    RetrievalConfig(k_test=7),
    ClassificationConfig(num_images=2),
    TextAssignmentConfig(temperature=0.1),
    VqaConfig(decoder_layers=2),
)


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind)
def test_a_file_gives_back_the_task_it_was_written_with(task: object, tmp_path: Path) -> None:
    config = RunConfig(task=task)  # type: ignore[arg-type]
    assert from_dict(to_dict(config)) == config
    assert next(iter(to_dict(config)["task"])) == "kind"
    assert parse_overrides(config, ["train.seed=3"]).task == task


def test_a_file_without_a_kind_means_pretraining(tmp_path: Path) -> None:
    old = to_dict(RunConfig(task=PretrainConfig(queue_size=9)))
    del old["task"]["kind"]
    (tmp_path / "config.json").write_text(json.dumps(old), encoding="utf-8")
    assert load(tmp_path / "config.json").task == PretrainConfig(queue_size=9)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.kind=vqa"], ["task.kind=vqa", "give a recipe of that task"]),
        (["task.queue_size=3"], ["task.queue_size is a setting of the task pretrain and retrieval, not of vqa"]),
        (["task.alpa=1"], ["there is no setting task.alpa", "did you mean task.alpha?"]),
        (["task.k_test=0"], ["task.k_test is 0"]),
        (["task=3"], ["task is a section"]),
    ],
)
def test_a_setting_of_another_task_is_refused_by_name(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(RunConfig(task=VqaConfig()), overrides)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["singing", 3, None])
def test_a_kind_that_does_not_exist_is_refused(kind: object) -> None:
    with pytest.raises(ConfigError, match="give one of pretrain, retrieval, classification, text_assignment, vqa"):
        from_dict({"task": {"kind": kind}})


def test_an_override_is_read_by_the_tasks_own_field() -> None:
    changed = parse_overrides(RunConfig(task=VqaConfig()), ["task.decoder_layers=3", "task.alpha=0"])
    assert changed.task == VqaConfig(decoder_layers=3, alpha=0.0)
    marked = [line.split()[1] for line in describe(changed).splitlines() if line.startswith("*")]
    assert marked == ["task.alpha=0.0", "task.decoder_layers=3"]


@pytest.mark.parametrize(
    ("task", "size", "fits"),
    [
        (RetrievalConfig(), 1, False),
        (RetrievalConfig(gather_negatives=True), 1, True),
        (TextAssignmentConfig(), 2, False),
        (TextAssignmentConfig(), 3, True),
        (ClassificationConfig(), 1, True),
        (VqaConfig(), 1, True),
    ],
    ids=str,
)
def test_a_batch_too_small_for_the_task_is_refused(task: RetrievalConfig, size: int, fits: bool) -> None:
    if fits:
        task.check_batch(size)
    else:
        with pytest.raises(ConfigError, match=r"train\.micro_batch_size"):
            task.check_batch(size)


def test_alpha_rises_and_momentum_is_kept_only_where_it_is_used() -> None:
    task = VqaConfig(alpha=0.4, alpha_ramp_epochs=2.0)
    assert [task.alpha_at(epoch) for epoch in (0.0, 1.0, 2.0, 5.0)] == [0.0, 0.2, 0.4, 0.4]
    assert VqaConfig(alpha_ramp_epochs=0.0).alpha_at(0.0) == 0.4
    assert task.uses_momentum and not VqaConfig(alpha=0.0).uses_momentum
    assert RetrievalConfig(alpha=0.0).uses_momentum and not TextAssignmentConfig().uses_momentum


def test_classes_may_have_own_names() -> None:
    assert ClassificationConfig(num_classes=4, class_names="none, some,many,all").labels == {
        "none": 0,
        "some": 1,
        "many": 2,
        "all": 3,
    }
    assert ClassificationConfig(num_classes=2, num_images=2).labels == {"False": 0, "True": 1}
    for names in ("a,b", "a,b,b", "a,,b", "a,b,c,d"):
        with pytest.raises(ConfigError, match=r"task\.class_names is .*which is not 3 different names: give one name per class"):
            ClassificationConfig(num_classes=3, class_names=names)
