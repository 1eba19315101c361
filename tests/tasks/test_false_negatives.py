"""Likely false negatives are left out or become positives; ITC is smoothed and made consistent; all of it is off at first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import ComputeConfig, PretrainConfig
from albef_ds.models.losses.contrastive import consistency_loss, contrastive_loss
from albef_ds.models.losses.wide import FORMS
from albef_ds.tasks.pretrain import PretrainTask
from tests.tasks.tiny import fill_queue, losses_and_gradients, random_batch, tiny_task

ROWS = 5


def task_with(compute: ComputeConfig | None = None, **settings: Any) -> PretrainTask:
    task = tiny_task(PretrainConfig(queue_size=12, **settings), compute=compute or ComputeConfig())
    fill_queue(task, 9)
    return task


def seen(task: PretrainTask, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What a step passes to both directions of ITC, and the labels of ITM."""
    found: dict[str, list[Any]] = {"positives": [], "excluded": [], "labels": []}
    real, entropy = contrastive_loss, F.cross_entropy

    def itc(features: Tensor, momentum: Tensor, keys: Tensor, positives: Tensor, *rest: Any) -> Any:
        found["positives"].append(positives)
        found["excluded"].append(rest[2])
        return real(features, momentum, keys, positives, *rest)

    def itm(logits: Tensor, labels: Tensor, **rest: Any) -> Tensor:
        found["labels"].append(labels.clone())
        return entropy(logits, labels, **rest)

    monkeypatch.setattr("albef_ds.models.losses.wide.contrastive_loss", itc)
    monkeypatch.setattr("albef_ds.tasks.contrastive.F.cross_entropy", itm)
    losses, metrics = task(random_batch(ROWS), alpha=0.4)
    found["metrics"] = [metrics]
    assert all(torch.isfinite(loss) for loss in losses.values())
    return found


def test_without_the_settings_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(task_with(), monkeypatch)
    assert found["excluded"] == [None, None]
    assert found["labels"][0].tolist() == [1] * ROWS + [0] * 2 * ROWS
    assert "false_negatives" not in found["metrics"][0]


@pytest.mark.parametrize("by", ["itm", "itc"])
@pytest.mark.parametrize("become", ["mask", "positive"])
def test_what_the_momentum_model_takes_for_matching_is_no_negative(by: str, become: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = seen(task_with(), monkeypatch)
    known = plain["positives"][0]
    settings = {"false_negatives": become, "false_negatives_by": by}
    none = seen(task_with(**settings, false_negative_threshold=1.0), monkeypatch)
    assert none["labels"][0].tolist() == plain["labels"][0].tolist()
    every = seen(task_with(**settings, false_negative_threshold=1e-9), monkeypatch)
    assert every["labels"][0].tolist() == [1] * ROWS + [1 if become == "positive" else -100] * 2 * ROWS
    assert float(every["metrics"][0]["false_negatives"]) > 0.7
    assert float(none["metrics"][0]["false_negatives"]) == 0.0
    for way in range(2):
        positives, excluded = every["positives"][way], every["excluded"][way]
        changed = positives & ~known if become == "positive" else excluded
        assert torch.equal(positives, known | changed) if become == "positive" else torch.equal(positives, known)
        if by == "itm":  # the drawn ones: one in each row
            assert changed.sum(dim=1).max() <= 1
            assert changed.any()
        else:  # everything but the own pair
            assert torch.equal(changed | known, torch.ones_like(known))
        assert not changed[range(ROWS), range(ROWS)].any()


def test_the_probability_of_itc_is_that_against_the_own_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_with(false_negatives="positive", false_negatives_by="itc", false_negative_threshold=0.5)
    recorded: list[tuple[Tensor, Tensor]] = []
    real = contrastive_loss

    def spy(features: Tensor, momentum: Tensor, keys: Tensor, positives: Tensor, *rest: Any) -> Any:
        recorded.append((momentum @ keys.T, positives))
        return real(features, momentum, keys, positives, *rest)

    known = seen(task_with(), monkeypatch)["positives"][0]
    monkeypatch.setattr("albef_ds.models.losses.wide.contrastive_loss", spy)
    task(random_batch(ROWS), alpha=0.4)
    for similarity, positives in recorded:
        as_similar = similarity >= similarity[range(ROWS), range(ROWS)][:, None]
        assert torch.equal(positives, known | as_similar)
        assert (as_similar.sum(dim=1) > 1).any()


def test_with_a_threshold_of_0_they_are_drawn_by_their_probability_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"false_negatives": "mask", "false_negatives_by": "itc", "false_negative_threshold": 0.0}
    first, again = (seen(task_with(**settings), monkeypatch)["excluded"][0] for _ in range(2))
    assert torch.equal(first, again)
    sure = seen(task_with(**{**settings, "false_negative_threshold": 0.5}), monkeypatch)["excluded"][0]
    assert not torch.equal(first, sure)


@pytest.mark.parametrize("form", ["plain", "sliced"])
def test_smoothing_spreads_a_share_of_the_targets_evenly(form: str) -> None:
    compute = ComputeConfig(wide_losses=form)  # type: ignore[arg-type]
    batch = random_batch(ROWS)
    smoothed, gradients = losses_and_gradients(task_with(compute, itc_smoothing=0.25), batch, alpha=0.0)
    plain, _ = losses_and_gradients(task_with(compute), batch, alpha=0.0)
    task = task_with(compute)
    even: list[Tensor] = []
    loss = FORMS["plain"].contrastive

    def all_positive(features: Tensor, momentum: Tensor, keys: Tensor, positives: Tensor, *rest: Any) -> Any:
        even.append(loss(features, momentum, keys, torch.ones_like(positives), *rest)[0])
        return loss(features, momentum, keys, positives, *rest)

    task.wide_losses = type(
        "Spy", (), {"contrastive": staticmethod(all_positive), "masked_language": task.wide_losses.masked_language}
    )()
    task(batch, alpha=0.0)
    expected = 0.75 * plain["itc"] + 0.25 * float(sum(even).detach()) / 2  # type: ignore[union-attr]
    assert smoothed["itc"] == pytest.approx(expected, rel=1e-9)
    assert gradients


def test_consistency_is_the_cross_entropy_to_the_other_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    i2t, t2i = (torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = consistency_loss(i2t, t2i)
    by_hand = 0.0
    for row in range(3):
        p, q = torch.softmax(i2t[row].detach(), 0), torch.softmax(t2i[row].detach(), 0)
        by_hand -= float((q * p.log()).sum() + (p * q.log()).sum()) / 6
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    [gradient] = torch.autograd.grad(loss, [i2t])
    assert torch.allclose(gradient, (torch.softmax(i2t, 1) - torch.softmax(t2i, 1)).detach() / 6)
    batch = random_batch(ROWS)
    heavy, plain = (losses_and_gradients(task_with(itc_consistency=weight), batch)[0] for weight in (0.5, 0.0))
    assert heavy["itc"] > plain["itc"]
    assert {name: value for name, value in heavy.items() if name != "itc"} == {n: v for n, v in plain.items() if n != "itc"}


def test_masking_needs_whole_rows_of_logits_and_says_so() -> None:
    with pytest.raises(ConfigError, match="compute.wide_losses of sliced cannot leave out".replace(".", r"\.")):
        parse_overrides(get_recipe("debug"), ["task.false_negatives=mask", "compute.wide_losses=sliced"])
    config = parse_overrides(get_recipe("debug"), ["task.false_negatives=positive", "compute.wide_losses=sliced"])
    assert config.task == replace(get_recipe("debug").task, false_negatives="positive")
    task = task_with(ComputeConfig(wide_losses="sliced"), false_negatives="positive", false_negative_threshold=1e-9)
    assert losses_and_gradients(task, random_batch(ROWS))[0]["itc"] > 0


def test_a_drawn_negative_has_the_same_part_in_itm_and_itc(monkeypatch: pytest.MonkeyPatch) -> None:
    known = seen(task_with(), monkeypatch)["positives"][0]
    found = seen(task_with(false_negatives="positive", false_negative_threshold=0.0), monkeypatch)
    for_text, for_image = (part.tolist() for part in found["labels"][0][ROWS:].chunk(2))
    i2t, t2i = ((positives & ~known).any(dim=1).long().tolist() for positives in found["positives"])
    assert (for_text, for_image) == (t2i, i2t)
    assert for_text != for_image
