"""`init.checkpoint`: a pretrained model of another image size starts every task, and nothing goes unnoticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from albef_ds.checkpoint.formats.native import save_file
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.initial.load import load_initial_momentum, load_initial_weights
from albef_ds.checkpoint.names import BASE, MOMENTUM
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.common.errors import WeightsError
from albef_ds.config.schema import (
    ClassificationConfig,
    InitConfig,
    PretrainConfig,
    RetrievalConfig,
    RunConfig,
    TaskConfig,
    TextAssignmentConfig,
    VqaConfig,
)
from albef_ds.engine.build import attach_momentum, build_task
from albef_ds.tasks.base import Task
from tests.engine.zero.common import tiny_config, with_engine
from tests.tasks.tiny import tiny_model

LARGER = 32
TASKS: dict[str, TaskConfig] = {
    "pretrain": PretrainConfig(queue_size=4),
    "retrieval": RetrievalConfig(queue_size=4),
    "entailment": ClassificationConfig(),
    "nlvr2": ClassificationConfig(num_classes=2, num_images=2),
    "text assignment": TextAssignmentConfig(),
    "vqa": VqaConfig(decoder_layers=2),
}
NEW = {"entailment": {"cls_head"}, "nlvr2": {"cls_head"}, "text assignment": {"ta_head"}}


def _config(task: TaskConfig, checkpoint: Path | None = None, *, size: int = 16) -> RunConfig:
    model = tiny_model(width=24)
    model = replace(model, vision=replace(model.vision, image_size=size))
    init = InitConfig(checkpoint=str(checkpoint or ""))
    return with_engine(tiny_config(task=task, model=model, init=init), kind="local", momentum_storage="dense")


def _save(task: Task, config: RunConfig, path: Path, *, momentum: bool = True) -> Path:
    tensors = {name: parameter.detach() for name, parameter in task.named_parameters()}
    if momentum:
        tensors |= {name.replace(BASE, MOMENTUM, 1): 2 * tensor for name, tensor in tensors.items() if name.startswith(BASE)}
    save_file(WholeModel(config, {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}), path)
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining model whose momentum copy is twice the student."""
    config = replace(_config(TASKS["pretrain"]), train=replace(tiny_config().train, seed=7))
    return _save(build_task(config), config, tmp_path_factory.mktemp("pretrained") / "pretrained.safetensors")


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_starts_from_a_pretrained_model_of_another_size(name: str, pretrained: Path) -> None:
    config = _config(TASKS[name], pretrained, size=LARGER)
    task, untouched = build_task(config), dict(build_task(config).named_parameters())
    [line] = load_initial_weights(task, config)
    attach_momentum(task, config)
    said = load_initial_momentum(task, config)
    assert "position table resized from 4 patches" in line and str(pretrained) in line
    kept = {
        key.removeprefix(BASE).split(".")[0]
        for key, parameter in task.named_parameters()
        if parameter.dim() > 1 and torch.equal(parameter, untouched[key])
    }
    assert kept == NEW.get(name, set())
    assert all(part in line for part in kept)
    assert task.has_momentum == bool(said) == (name != "text assignment")
    if said:
        students = dict(task.base.named_parameters())
        for key, tensor in task.momentum.full_state_dict().items():
            factor = 1.0 if key.split(".")[0] in kept else 2.0
            if key in students:
                torch.testing.assert_close(tensor, factor * students[key].detach(), msg=key)


def test_the_student_serves_where_a_checkpoint_has_no_momentum_copy(pretrained: Path, tmp_path: Path) -> None:
    config = _config(TASKS["pretrain"])
    path = _save(build_task(config), config, tmp_path / "student.safetensors", momentum=False)
    config = _config(TASKS["retrieval"], path)
    task = build_task(config)
    load_initial_weights(task, config)
    attach_momentum(task, config)
    assert load_initial_momentum(task, config) == ["momentum model: equal to the student, the checkpoint has none"]
    students = dict(task.base.named_parameters())
    assert all(torch.equal(tensor, students[key]) for key, tensor in task.momentum.full_state_dict().items())


@pytest.mark.parametrize("storage", ["dense", "fp32"])
@pytest.mark.parametrize("task", ["pretrain", "retrieval"])
def test_a_tied_tensor_counts_once_and_a_frozen_part_of_the_momentum_model_is_the_students(
    pretrained: Path, task: str, storage: str
) -> None:
    config = _config(TASKS[task], pretrained)
    vision = replace(config.model.vision, frozen=True)
    frozen = replace(config.model, vision=vision, text=replace(config.model.text, frozen=True, fusion_frozen=True, dropout=0.0))
    config = with_engine(replace(config, model=frozen), kind="zero", stage=1, momentum_storage=storage)
    task = build_task(config)
    load_initial_weights(task, config)
    attach_momentum(task, config)
    students = dict(task.base.named_parameters())
    assert load_initial_momentum(task, config) == [f"momentum model: {len(students)} tensors from the checkpoint"]
    for name, tensor in task.momentum.parameters():
        torch.testing.assert_close(tensor, 2 * students[name].detach(), msg=name)
    shared = dict(task.momentum.modules["albef"].named_parameters())
    for name in (
        "text_encoder.embeddings.word.weight",
        "visual_encoder.norm.bias",
        "multimodal_encoder.layers.1.feed_forward.up.bias",
    ):
        assert shared[name] is students[f"albef.{name}"]


def test_another_number_of_classes_is_a_new_head(tmp_path: Path) -> None:
    three = _config(ClassificationConfig(num_classes=3))
    path = _save(build_task(three), three, tmp_path / "three.safetensors")
    same, two = _config(ClassificationConfig(num_classes=3), path), _config(ClassificationConfig(num_classes=2), path)
    assert "random weights" not in load_initial_weights(build_task(same), same)[0]
    assert "random weights in cls_head" in load_initial_weights(build_task(two), two)[0]


def test_text_assignment_leads_to_nlvr2(tmp_path: Path) -> None:
    source = _config(TextAssignmentConfig())
    path = _save(build_task(source), source, tmp_path / "ta.safetensors", momentum=False)
    target = _config(TASKS["nlvr2"], path, size=LARGER)
    [line] = load_initial_weights(build_task(target), target)
    assert "random weights in cls_head" in line and "not used: ta_head.bias, ta_head.weight, vision_proj.bias" in line


def test_what_does_not_fit_is_refused_by_name(pretrained: Path, tmp_path: Path) -> None:
    config = _config(TASKS["retrieval"], pretrained)
    wider = replace(config, model=replace(config.model, text=replace(config.model.text, intermediate_width=40)))
    with pytest.raises(
        WeightsError, match=r"feed_forward.* has shape \(24, 32\), in the model \(24, 40\): the settings in model"
    ):
        load_initial_weights(build_task(wider), wider)
    deeper = replace(config, model=replace(config.model, text=replace(config.model.text, num_layers=3)))
    with pytest.raises(WeightsError, match=r"lacks \d+ tensors of the model \(base\.albef\.text_encoder\.layers\.2"):
        load_initial_weights(build_task(deeper), deeper)
    shallower = replace(config, model=replace(config.model, text=replace(config.model.text, num_fusion_layers=1)))
    with pytest.raises(WeightsError, match=r"holds \d+ tensors without a place in the model \(base\.albef\.multimodal"):
        load_initial_weights(build_task(shallower), shallower)
    entailment = _config(TASKS["entailment"])
    path = _save(build_task(entailment), entailment, tmp_path / "entailment.safetensors")
    with pytest.raises(WeightsError, match="a model of kind classification does not serve retrieval"):
        load_initial_weights(build_task(config), replace(config, init=InitConfig(checkpoint=str(path))))
    with pytest.raises(WeightsError, match="nowhere does not exist"):
        load_initial_weights(build_task(config), replace(config, init=InitConfig(checkpoint=str(tmp_path / "nowhere"))))
