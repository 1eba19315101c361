"""The dense momentum model averages trained parameters exactly and leaves frozen ones out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from albef_ds.config.schema import ComputeConfig, PretrainConfig
from albef_ds.models.momentum import DenseMomentum, momentum_copy
from albef_ds.tasks.pretrain import PretrainTask
from tests.tasks.tiny import losses_and_gradients, random_batch, tiny_model, tiny_task


def _student(seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))}).double()


def _step(student: nn.ModuleDict, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.995, 1.0])
def test_update_is_the_exponential_moving_average(decay: float) -> None:
    student = _student()
    momentum = DenseMomentum(student, decay)
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    for step in range(3):
        _step(student, step)
        momentum.update()
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in student.state_dict().items()}
    for name, value in momentum.modules.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-14, atol=1e-15)


def test_copy_has_no_gradients_and_no_dropout_unless_asked() -> None:
    student = _student()
    momentum = DenseMomentum(student, 0.9)
    assert not any(p.requires_grad for p in momentum.modules.parameters())
    assert not any(module.training for module in momentum.modules.modules())
    assert DenseMomentum(student, 0.9, dropout=True).modules["b"].training
    assert student.training and all(p.requires_grad for p in student.parameters())


def test_a_bf16_student_feeds_a_single_precision_average() -> None:
    student = _student().float()
    momentum = DenseMomentum(student, 0.995)
    start = momentum.full_state_dict()
    student.bfloat16()
    _step(student, 1)
    for _ in range(10):
        momentum.update()
    share = 1 - 0.995**10
    for name, value in student.state_dict().items():
        expected = start[name].double() * (1 - share) + value.double() * share
        got = momentum.modules.state_dict()[name]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)


def test_what_is_frozen_is_shared_and_never_moved() -> None:
    student = _student()
    student["a"].requires_grad_(False)
    student["b"][0].bias.requires_grad_(False)
    momentum = DenseMomentum(student, 0.5)
    assert momentum.modules["a"] is student["a"] and momentum.modules["b"] is not student["b"]
    assert momentum.modules["b"][0].bias is student["b"][0].bias
    before = student["a"].weight.clone()
    _step(student, 1)
    momentum.update()
    assert torch.equal(student["a"].weight, before)
    assert not torch.equal(momentum.modules["b"][0].weight, student["b"][0].weight)


def test_everything_frozen_has_nothing_to_update() -> None:
    student = _student().requires_grad_(False)
    DenseMomentum(student, 0.5).update()


def test_copy_from_student_and_a_loaded_state_replace_the_average() -> None:
    student = _student()
    momentum = DenseMomentum(student, 0.9)
    saved = momentum.full_state_dict()
    _step(student, 1)
    momentum.copy_from_student()
    assert all(torch.equal(a, b) for a, b in zip(momentum.modules.parameters(), student.parameters(), strict=True))
    assert not torch.equal(saved["a.weight"], student["a"].weight), "a saved state must not follow the student"
    momentum.load_full_state_dict(saved)
    assert torch.equal(momentum.modules["a"].weight, saved["a.weight"])


def test_tied_word_embeddings_stay_tied() -> None:
    task = tiny_task()
    momentum = task.momentum.modules
    word = momentum["albef"].text_encoder.embeddings.word.weight
    student = task.model.text_encoder.embeddings.word.weight
    assert momentum["mlm_head"].decoder.weight is word and word is not student
    before = word.clone()
    with torch.no_grad():
        student.add_(1.0)
    task.momentum.update()
    assert momentum["mlm_head"].decoder.weight is word
    # Averaged once, not once per name.
    torch.testing.assert_close(word, 0.995 * before + 0.005 * student.detach())


def _frozen_task(config: PretrainConfig, dtype: torch.dtype) -> PretrainTask:
    return tiny_task(config, ComputeConfig(), tiny_model(dropout=0.3, frozen=True), dtype=dtype)


def test_a_frozen_text_encoder_is_one_module_for_both() -> None:
    task = _frozen_task(PretrainConfig(queue_size=4), torch.float64)
    assert task.momentum.modules["albef"].text_encoder is task.model.text_encoder
    assert not task.model.text_encoder.training, "the copy's mode must not reach the shared encoder"
    calls: list[Tensor] = []
    task.model.text_encoder.register_forward_hook(lambda _module, _args, output: calls.append(output))
    _, gradients = losses_and_gradients(task, random_batch(4))
    assert len(calls) == 1, "its embeddings serve student and momentum model"
    assert not any("text_encoder" in name for name in gradients)


def test_modes_of_the_copy() -> None:
    student = _student()
    assert not momentum_copy(student)["b"].training and momentum_copy(student, dropout=True)["b"].training
