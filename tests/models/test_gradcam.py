"""Grad-CAM compared with a literal reference: explicit layers, attention scores differentiated entry by entry."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.schema import ComputeConfig, RetrievalConfig
from albef_ds.models.bert import FusionLayer
from albef_ds.models.gradcam import ground_text, itm_gradcam, middle_layer
from albef_ds.tasks.retrieval import RetrievalTask
from tests.tasks.tiny import random_batch, tiny_model

HEADS, ROWS = 2, 3


def _task(**compute: object) -> RetrievalTask:
    torch.manual_seed(0)
    task = RetrievalTask(tiny_model(), ComputeConfig(**compute), RetrievalConfig(queue_size=4))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if name != "temperature":
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    return task.double().eval()


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


def _literal(task: RetrievalTask, layer: int, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Returns maps (L, h, w) and the score of one pair without padding: image tokens (N, W), text tokens (L, D).

    The weights of the chosen layer are an input of what follows; their gradients are taken one by one.
    """
    layers = [part for part in task.model.multimodal_encoder.layers if isinstance(part, FusionLayer)]

    def probabilities(part: FusionLayer, hidden: Tensor) -> Tensor:
        cross = part.cross_attention
        query, key = _heads(cross.query(hidden)), _heads(cross.key_value.key(image))
        return torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1)

    def up_to_cross(part: FusionLayer, hidden: Tensor) -> Tensor:
        own = part.self_attention
        query, key, value = (_heads(linear(hidden)) for linear in (own.query, own.key, own.value))
        weights = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1)
        return own.output.norm(hidden + own.output.dense((weights @ value).transpose(0, 1).flatten(1)))

    def from_cross(part: FusionLayer, hidden: Tensor, weights: Tensor) -> Tensor:
        cross, forward = part.cross_attention, part.feed_forward
        value = _heads(cross.key_value.value(image))
        hidden = cross.output.norm(hidden + cross.output.dense((weights @ value).transpose(0, 1).flatten(1)))
        return forward.output.norm(hidden + forward.output.dense(F.gelu(forward.up(hidden))))

    def score(start: int, hidden: Tensor, weights: Tensor) -> Tensor:
        hidden = from_cross(layers[start], hidden, weights)
        for part in layers[start + 1 :]:
            middle = up_to_cross(part, hidden)
            hidden = from_cross(part, middle, probabilities(part, middle))
        return task.itm_head(hidden[0])[1]

    with torch.no_grad():
        hidden = text
        for part in layers[:layer]:
            middle = up_to_cross(part, hidden)
            hidden = from_cross(part, middle, probabilities(part, middle))
        middle = up_to_cross(layers[layer], hidden)
        weights = probabilities(layers[layer], middle)
        gradients = torch.zeros_like(weights)
        step = 1e-5
        for index in range(weights.numel()):  # central differences: no automatic differentiation in the reference
            moved = torch.zeros_like(weights).flatten()
            moved[index] = step
            moved = moved.view_as(weights)
            up, down = score(layer, middle, weights + moved), score(layer, middle, weights - moved)
            gradients.view(-1)[index] = (up - down) / (2 * step)
        side = math.isqrt(image.shape[0] - 1)
        maps = torch.zeros(text.shape[0], side, side, dtype=torch.float64)
        for token in range(text.shape[0]):
            for patch in range(side * side):
                for head in range(HEADS):
                    positive = max(float(gradients[head, token, 1 + patch]), 0.0)
                    maps[token, patch // side, patch % side] += positive * weights[head, token, 1 + patch] / HEADS
        return maps, score(layer, middle, weights)


@pytest.mark.parametrize("share", [True, False], ids=["shared keys and values", "keys and values per row"])
@pytest.mark.parametrize("layer", [0, 1])
def test_maps_equal_a_literal_reference(layer: int, share: bool) -> None:
    task = _task(share_cross_kv=share, attention="auto" if share else "plain")
    batch = random_batch(ROWS)
    with torch.no_grad():
        images = task.model.encode_image(batch.images)
        texts = task.model.encode_text(batch.token_ids, batch.token_mask)
    cam = itm_gradcam(task.model, task.itm_head, images, texts, batch.token_mask, layer)
    length = batch.token_ids.shape[1]
    assert cam.tokens.shape == (ROWS, length, 2, 2) and cam.sentence.shape == (ROWS, 2, 2)
    for row in range(ROWS):
        words = int(batch.token_mask[row].sum())
        maps, score = _literal(task, layer, images[row], texts[row, :words])
        torch.testing.assert_close(cam.tokens[row, :words], maps, rtol=1e-6, atol=1e-9)
        assert not cam.tokens[row, words:].any()
        torch.testing.assert_close(cam.sentence[row], maps.mean(dim=0), rtol=1e-6, atol=1e-9)
        assert float(cam.scores[row]) == pytest.approx(float(score))
    assert bool(cam.tokens.any())


def test_grounding_leaves_nothing_behind_and_works_without_gradients_around() -> None:
    task, batch = _task(), random_batch(ROWS)
    cross = task.model.multimodal_encoder.layers[1].cross_attention
    before = cross.attend
    with torch.no_grad():
        first = ground_text(task.model, task.itm_head, batch.images, batch.token_ids, batch.token_mask, -1)
    assert cross.attend is before
    assert all(parameter.grad is None for parameter in task.parameters())
    task.requires_grad_(False)
    frozen = ground_text(task.model, task.itm_head, batch.images, batch.token_ids, batch.token_mask, -1)
    torch.testing.assert_close(frozen.tokens, first.tokens)


def test_a_layer_that_does_not_exist_is_named() -> None:
    task, batch = _task(), random_batch(ROWS)
    with pytest.raises(ConfigError, match="layer 2 does not exist: the multimodal encoder has layers 0 to 1"):
        ground_text(task.model, task.itm_head, batch.images, batch.token_ids, batch.token_mask, 2)
    images = task.model.encode_image(batch.images)[:, :-1]
    texts = task.model.encode_text(batch.token_ids, batch.token_mask)
    with pytest.raises(DataError, match="3 patches are no square grid"):
        itm_gradcam(task.model, task.itm_head, images, texts, batch.token_mask, 0)


@pytest.mark.parametrize(("depth", "middle"), [(1, 0), (2, 0), (3, 1), (6, 2)])
def test_the_middle_layer_is_read_unless_told_otherwise(depth: int, middle: int) -> None:
    model = tiny_model(num_fusion_layers=depth)
    task, batch = RetrievalTask(model, ComputeConfig(), RetrievalConfig(queue_size=0)).eval(), random_batch(2)
    assert middle_layer(task.model) == middle
    unsaid, said = (
        ground_text(task.model, task.itm_head, batch.images, batch.token_ids, batch.token_mask, layer) for layer in (None, middle)
    )
    torch.testing.assert_close(unsaid.tokens, said.tokens)
