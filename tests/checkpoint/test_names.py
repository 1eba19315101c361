"""Names of the released files."""

from __future__ import annotations

import pytest

from albef_ds.checkpoint.names import place_of
from tests.parity.names import released_name
from tests.tasks.tiny import tiny_task


def test_every_parameter_has_a_released_name_of_its_own() -> None:
    task = tiny_task()
    student = [released_name(name, 2) for name, _ in task.named_parameters()]
    momentum = [released_name(f"base.{name}", 2, momentum=True) for name, _ in task.momentum.modules.named_parameters()]
    assert len(set(student + momentum)) == len(student) + len(momentum)
    assert "text_encoder_m.bert.encoder.layer.3.crossattention.self.key.weight" in momentum
    assert {"temp", "itm_head.weight", "visual_encoder.cls_token", "text_encoder.cls.predictions.bias"} <= set(student)


def test_a_foreign_name_is_refused() -> None:
    assert place_of("base.albef.audio_encoder.weight", "pretrain", 2) is None
    with pytest.raises(KeyError):
        released_name("base.albef.audio_encoder.weight", 2)
