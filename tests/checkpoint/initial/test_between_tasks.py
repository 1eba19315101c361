"""Weights of one task's model as another's: whole models compute the same after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from albef_ds.checkpoint.initial.between_tasks import (
    multimodal_from_nlvr_layers,
    nlvr_layers_from_multimodal,
    resize_position_embedding,
    transplant,
)
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.common.errors import WeightsError
from albef_ds.config.schema import ClassificationConfig, ComputeConfig, PretrainConfig, TextAssignmentConfig, VqaConfig
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.tasks.text_assignment import TextAssignmentTask
from albef_ds.tasks.transfer import vqa_decoder_from_multimodal
from albef_ds.tasks.vqa import VqaTask
from tests.tasks.tiny import random_batch, tiny_model

SQUARE = tiny_model(width=24)  # images and texts of one width, as in the paper


def _pretrained() -> PretrainTask:
    torch.manual_seed(0)
    task = PretrainTask(SQUARE, ComputeConfig(), PretrainConfig(queue_size=4))
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return task.double().eval()


def _state(task: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in task.named_parameters()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_position_embedding_keeps_the_class_token_and_the_picture() -> None:
    slope = torch.arange(8.0)[:, None, None] + 10 * torch.arange(8.0)[None, :, None]
    table = torch.cat([torch.full((1, 1, 1), 7.0), slope.reshape(1, 64, 1)], dim=1)
    larger = resize_position_embedding(LazyTensor.of(table), 1 + 12 * 12).read()
    assert larger.shape == (1, 145, 1) and float(larger[0, 0, 0]) == 7.0
    grid = larger[0, 1:, 0].view(12, 12)
    # Inside the borders a slope of 8/12 per patch stays, about which torch's cubic kernel (a = -0.75) ripples by 0.093 at most.
    torch.testing.assert_close((grid[4:9] - grid[3:8])[:, 3:9], torch.full((5, 6), 8 / 12), rtol=0, atol=0.1)
    assert torch.equal(resize_position_embedding(LazyTensor.of(table), 65).read(), table)
    with pytest.raises(WeightsError, match="a position table of 63 patches is not a square grid"):
        resize_position_embedding(LazyTensor.of(table[:, :-1]), 145)


def test_decoder_is_the_multimodal_encoder() -> None:
    state = _state(_pretrained())
    decoder = vqa_decoder_from_multimodal(state, 2)
    fresh = _state(VqaTask(SQUARE, ComputeConfig(), VqaConfig(decoder_layers=2)))
    assert decoder.keys() == {name for name in fresh if name.startswith("base.decoder.")}
    layer = "layers.1.cross_attention.key_value.key.weight"
    assert decoder[f"base.decoder.encoder.{layer}"] is state[f"base.albef.multimodal_encoder.{layer}"]
    assert vqa_decoder_from_multimodal(state, 1).keys() < decoder.keys()
    sources = {"encoder": "base.albef.multimodal_encoder", "embeddings": "base.albef.text_encoder.embeddings"}
    for name, tensor in decoder.items():
        part, rest = name.removeprefix("base.decoder.").split(".", 1)
        assert torch.equal(tensor, state[f"{sources.get(part, f'base.{part}')}.{rest}"]), name


def test_decoder_leaves_out_keys_and_values_of_another_width() -> None:
    state = _state(PretrainTask(tiny_model(), ComputeConfig(), PretrainConfig(queue_size=4)))
    decoder = vqa_decoder_from_multimodal(state, 2)
    assert decoder and not any("key_value" in name for name in decoder)


def test_paired_layers_are_made_and_undone() -> None:
    state = _state(_pretrained())
    paired = nlvr_layers_from_multimodal(state)
    fresh = _state(ClassificationTask(SQUARE, ComputeConfig(), ClassificationConfig(num_classes=2, num_images=2)))
    assert {name for name in paired if "multimodal" in name} == {name for name in fresh if "multimodal" in name}
    assert _same(multimodal_from_nlvr_layers(paired), state)


@torch.no_grad()
def test_a_paired_layer_is_the_old_layer_once_per_image() -> None:
    source = _pretrained()
    target = TextAssignmentTask(SQUARE, ComputeConfig(), TextAssignmentConfig()).double().eval()
    moved = transplant(_state(source), source.config, target.config)
    own = _state(target)
    missing = own.keys() - moved.keys()
    assert missing == {"ta_head.weight", "ta_head.bias"}
    for name in own.keys() - missing:
        own[name].copy_(moved[name])
    batch = random_batch(3)
    images = source.model.encode_image(torch.stack([batch.images, batch.images.flip(0)]).flatten(0, 1)).view(2, 3, 5, 24)
    hidden = source.model.encode_text(batch.token_ids, batch.token_mask)
    [fused] = target.model.fuse(images, [FusionPass(hidden, batch.token_mask)])
    for layer in source.model.multimodal_encoder.layers:
        for image in images:
            [hidden] = layer(image, [FusionPass(hidden, batch.token_mask)], False)
    torch.testing.assert_close(fused, hidden)
    torch.testing.assert_close(target.vision_proj.weight, source.model.vision_proj.weight)


def test_text_assignment_leads_to_nlvr2_without_a_change() -> None:
    source = _state(TextAssignmentTask(SQUARE, ComputeConfig(), TextAssignmentConfig()))
    moved = transplant(source, TextAssignmentConfig(), ClassificationConfig(num_classes=2, num_images=2))
    assert _same(moved, source)
    single = transplant(source, TextAssignmentConfig(), ClassificationConfig())
    assert {name for name in single if "multimodal" in name} == {name for name in _state(_pretrained()) if "multimodal" in name}
