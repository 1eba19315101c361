"""Text assignment compared with a literal reference: one text at a time, plain loops, the released code's cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ComputeConfig, TextAssignmentConfig
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.tasks.text_assignment import FIRST, NEITHER, SECOND, TextAssignmentTask
from tests.tasks.tiny import random_batch, tiny_model

ROWS = 9


class _Drawn(TextAssignmentTask):
    """Returns draws from lists, in place of `torch.rand` and `multinomial`."""

    cases: list[float]
    orders: list[float]

    def draw_cases(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.cases), torch.tensor(self.orders)

    def draw_two(self, logits: Tensor, positions: Tensor) -> Tensor:
        return logits.topk(2, dim=1).indices  # the two most similar, in place of a random two


def _task(kind: type[TextAssignmentTask] = TextAssignmentTask, **settings: bool) -> TextAssignmentTask:
    torch.manual_seed(0)
    task = kind(tiny_model(), ComputeConfig(), TextAssignmentConfig(**settings), seed=3)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    return task.double().train()


def _literal_loss(task: _Drawn, images: Tensor, ids: Tensor, mask: Tensor) -> float:
    """The released procedure, pair by pair: choice of the two images, six doubled layers, cross-entropy."""
    model = task.model
    embeds = [model.encode_image(image[None])[0] for image in images]
    features = [F.normalize(task.vision_proj(embed[0]), dim=0) for embed in embeds]
    losses = []
    for row in range(len(images)):
        weights = torch.softmax(torch.stack([features[row] @ other for other in features]) / 0.07, dim=0)
        weights[row] = 0.0
        similar, next_similar = weights.argsort(descending=True)[:2].tolist()
        if task.cases[row] >= 1 / 3:
            if task.orders[row] < 0.5:
                pair, label = (embeds[row], embeds[similar]), 0
            else:
                pair, label = (embeds[similar], embeds[row]), 1
        else:
            pair, label = (embeds[similar], embeds[next_similar]), 2
        words = int(mask[row].sum())
        hidden = model.encode_text(ids[row : row + 1, :words], mask[row : row + 1, :words])
        for number, layer in enumerate(model.multimodal_encoder.layers):
            [hidden] = layer(pair[number % 2][None], [FusionPass(hidden, mask[row : row + 1, :words])], False)
        losses.append(F.cross_entropy(task.ta_head(hidden[0, :1]), torch.tensor([label])))
    return float(torch.stack(losses).mean().detach())


def test_loss_equals_a_literal_reference() -> None:
    task = _task(_Drawn, compat=True)
    assert isinstance(task, _Drawn)
    batch = random_batch(ROWS, duplicates=False)
    task.cases = [0.1, 0.2, 0.3, 0.34, 0.5, 0.6, 0.7, 0.8, 0.9]
    task.orders = [0.2, 0.7, 0.4, 0.1, 0.9, 0.3, 0.6, 0.49, 0.51]
    losses, metrics = task(batch)
    expected = _literal_loss(task, batch.images, batch.token_ids, batch.token_mask)
    assert float(losses["ta"].detach()) == pytest.approx(expected, rel=1e-12)
    assert 0.0 <= float(metrics["ta_accuracy"]) <= 1.0


def test_every_parameter_but_the_projection_learns() -> None:
    task = _task()
    task.total(task(random_batch(ROWS, duplicates=False))[0]).backward()
    still = {name for name, parameter in task.named_parameters() if parameter.grad is None}
    assert still == {"vision_proj.weight", "vision_proj.bias"}


def test_the_two_layers_of_a_pair_share_keys_and_values() -> None:
    layers = _task().model.multimodal_encoder.layers
    assert len(layers) == 4
    for first, second in ((layers[0], layers[1]), (layers[2], layers[3])):
        assert first.cross_attention.key_value is second.cross_attention.key_value
        assert first.cross_attention.query is not second.cross_attention.query
    assert layers[0].cross_attention.key_value is not layers[2].cross_attention.key_value


def test_classes_and_images_come_as_the_paper_says() -> None:
    task = _task()
    batch = random_batch(300, duplicates=False)
    embeds = torch.zeros(300, 2, 24, dtype=torch.float64)  # all images alike: every other one is equally likely
    first, second, labels = task.assign(embeds, batch)
    own = torch.arange(300)
    counts = labels.bincount(minlength=3).tolist()
    assert all(70 <= count <= 130 for count in counts), counts  # 100 expected, standard deviation 8
    assert bool((first[labels == FIRST] == own[labels == FIRST]).all())
    assert bool((second[labels == SECOND] == own[labels == SECOND]).all())
    neither = labels == NEITHER
    assert bool(((first != own) & (second != own))[neither].all()) and bool((first != second).all())
    drawn = torch.cat([second[labels == FIRST], first[labels == SECOND], first[neither], second[neither]])
    assert drawn.unique().numel() > 200
    again = task.assign(embeds, batch)
    assert all(torch.equal(one, other) for one, other in zip(again, (first, second, labels), strict=True))


def test_similar_images_are_drawn_and_the_same_image_is_not() -> None:
    task = _task()
    batch = random_batch(4, duplicates=False)
    with torch.no_grad():
        task.vision_proj.weight.zero_()
        task.vision_proj.bias.zero_()
        task.vision_proj.weight[:2, :2] = torch.eye(2)
    embeds = torch.zeros(4, 2, 24, dtype=torch.float64)
    embeds[:, 0, :2] = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]])
    for start in range(0, 400, 4):
        moved = replace(batch, positions=batch.positions + start)
        first, second, labels = task.assign(embeds, moved)
        partner = torch.where(labels == FIRST, second, first)  # the most similar one, sampled at temperature 0.07
        assert partner.tolist() == [1, 0, 3, 2]
        same_image = replace(moved, image_ids=torch.tensor([5, 5, 6, 6]))
        first, second, labels = task.assign(embeds, same_image)
        partner = torch.where(labels == FIRST, second, first)
        assert all(one // 2 != row // 2 for row, one in enumerate(partner.tolist()))


def test_two_pairs_are_too_few() -> None:
    with pytest.raises(ConfigError, match="of 2 leaves a text without two other images: use 3 or more"):
        _task()(random_batch(2, duplicates=False))
