"""The pretraining task: all implementations agree; ITC targets and negatives respect known positives."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ComputeConfig, PretrainConfig
from albef_ds.models.losses.contrastive import contrastive_loss
from albef_ds.tasks.pretrain import PretrainTask
from tests.tasks.tiny import fill_queue, losses_and_gradients, random_batch, shortest_form, tiny_model, tiny_task

SWITCHES = ("share_cross_kv", "mlm_masked_only", "itm_cls_only", "one_fusion_call")
PLAIN = ComputeConfig(attention="plain", **dict.fromkeys(SWITCHES, False))
ROWS = 5


def _run(compute: ComputeConfig, alpha: float = 0.4, **model: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    task = tiny_task(compute=compute, model=tiny_model(**model))
    fill_queue(task, 9)
    torch.manual_seed(3)
    return losses_and_gradients(task, random_batch(ROWS), alpha=alpha)


def _assert_same(
    got: tuple[dict[str, float], dict[str, Tensor]], expected: tuple[dict[str, float], dict[str, Tensor]], bound: float = 1e-10
) -> None:
    assert got[0] == pytest.approx(expected[0], rel=bound)
    assert got[1].keys() == expected[1].keys()
    # Relative to the largest gradient: worst seen 3e-15.
    scale = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert float((got[1][name] - gradient).abs().max()) <= bound * scale, name


@pytest.fixture(scope="module")
def plain() -> dict[float, tuple[dict[str, float], dict[str, Tensor]]]:
    return {alpha: _run(PLAIN, alpha) for alpha in (0.0, 0.4)}


@pytest.mark.parametrize("values", list(itertools.product(("sdpa", "plain"), *[(True, False)] * 4)), ids=str)
def test_no_switch_changes_a_loss_or_a_gradient(values: tuple[Any, ...], plain: dict[float, Any]) -> None:
    compute = ComputeConfig(attention=values[0], **dict(zip(SWITCHES, values[1:], strict=True)))
    _assert_same(_run(compute), plain[0.4])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("one_call", [False, True])
def test_text_without_padding_changes_no_loss_or_gradient(one_call: bool, recompute: bool, plain: dict[float, Any]) -> None:
    compute = ComputeConfig(
        packed_text=True, one_fusion_call=one_call, checkpoint_text=recompute, checkpoint_multimodal=recompute
    )
    _assert_same(_run(compute), plain[0.4])


def test_no_switch_changes_a_result_without_distillation(plain: dict[float, Any]) -> None:
    _assert_same(_run(ComputeConfig(attention="sdpa"), alpha=0.0), plain[0.0])


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("masked_only", [True, False])
def test_losses_by_slices_of_columns_change_no_loss_or_gradient(masked_only: bool, alpha: float, plain: dict[float, Any]) -> None:
    _assert_same(_run(ComputeConfig(wide_losses="sliced", mlm_masked_only=masked_only), alpha=alpha), plain[alpha])


@pytest.mark.parametrize("parts", [("visual",), ("text",), ("multimodal",), ("visual", "text", "multimodal")], ids="+".join)
def test_recomputed_activations_give_the_same_gradients(parts: tuple[str, ...], plain: dict[float, Any]) -> None:
    checkpoints = {f"checkpoint_{part}": True for part in parts}
    _assert_same(_run(ComputeConfig(**checkpoints)), plain[0.4])
    # Dropout must be drawn again exactly as it was in the forward pass.
    _assert_same(_run(ComputeConfig(**checkpoints), dropout=0.3), _run(ComputeConfig(), dropout=0.3))


def test_every_parameter_has_a_gradient(plain: dict[float, Any]) -> None:
    gradients = plain[0.4][1]
    assert gradients.keys() == {name for name, _ in tiny_task().named_parameters()}
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    zero = {name for name, gradient in gradients.items() if not bool(gradient.any())}
    assert zero == set()


@pytest.mark.parametrize("wide_losses", ["plain", "sliced"])
def test_an_enqueue_before_the_backward_pass_changes_no_gradient(wide_losses: str, plain: dict[float, Any]) -> None:
    task = tiny_task(compute=ComputeConfig(wide_losses=wide_losses))
    fill_queue(task, 9)
    losses, _ = task(random_batch(ROWS), alpha=0.4)
    task.after_step()
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}
    _assert_same(({name: float(loss.detach()) for name, loss in losses.items()}, gradients), plain[0.4])


def test_dropout_acts_on_the_student_only() -> None:
    task = tiny_task(model=tiny_model(dropout=0.5))
    batch, features = random_batch(ROWS), []
    for _ in range(2):
        task(batch, alpha=0.4)
        features.append(task._pending.pop()[4])
    assert torch.equal(*features), "the momentum model is in eval mode"
    losses = [losses_and_gradients(task, batch)[0] for _ in range(2)]
    assert losses[0] != losses[1]
    task.eval()
    losses = [losses_and_gradients(task, batch)[0] for _ in range(2)]
    assert losses[0] == losses[1]
    wild = tiny_task(PretrainConfig(queue_size=4, momentum_dropout=True), model=tiny_model(dropout=0.5))
    features = []
    for _ in range(2):
        wild(batch, alpha=0.4)
        features.append(wild._pending.pop()[4])
    assert not torch.equal(*features)


def test_padding_a_batch_further_changes_nothing() -> None:
    task, batch = tiny_task(), random_batch(ROWS)
    assert shortest_form(batch).token_ids.shape[1] < batch.padded_to(11).token_ids.shape[1]
    _assert_same(losses_and_gradients(task, batch.padded_to(11)), losses_and_gradients(task, shortest_form(batch)))


@pytest.mark.parametrize("masked_only", [True, False])
def test_mlm_is_the_mean_over_masked_tokens(masked_only: bool) -> None:
    task, batch = tiny_task(compute=ComputeConfig(mlm_masked_only=masked_only)), random_batch(ROWS)
    logits: list[Tensor] = []
    task.base["mlm_head"].register_forward_hook(lambda _module, _args, output: logits.append(output))
    losses, metrics = task(batch, alpha=0.0)
    labels = batch.mlm_labels[batch.mlm_labels >= 0]
    at_masked = logits[0] if masked_only else logits[0][batch.mlm_labels >= 0]
    torch.testing.assert_close(losses["mlm"], F.cross_entropy(at_masked, labels))
    assert int(metrics["masked_tokens"]) == len(labels) > ROWS


@pytest.mark.parametrize("masked_only", [True, False])
def test_a_batch_without_a_masked_token_has_an_mlm_loss_of_zero(masked_only: bool) -> None:
    task, batch = tiny_task(compute=ComputeConfig(mlm_masked_only=masked_only)), random_batch(ROWS)
    losses, gradients = losses_and_gradients(task, replace(batch, mlm_labels=torch.full_like(batch.mlm_labels, -100)))
    assert losses["mlm"] == 0.0 and all(bool(torch.isfinite(g).all()) for g in gradients.values())


def _targets(task: PretrainTask, batch: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Returns the `positives` passed to both directions of ITC."""
    seen: list[Tensor] = []
    real = contrastive_loss

    def spy(features: Tensor, momentum: Tensor, keys: Tensor, positives: Tensor, *rest: Any) -> Any:
        seen.append(positives)
        assert positives.shape == (features.shape[0], keys.shape[0])
        return real(features, momentum, keys, positives, *rest)

    monkeypatch.setattr("albef_ds.models.losses.wide.contrastive_loss", spy)
    task(batch, alpha=0.4)
    return seen


def test_same_image_and_same_caption_are_positives_in_batch_and_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    fill_queue(task, 9)  # its first entry shows the image of rows 0 and 1
    expected = torch.zeros(ROWS, ROWS + 9, dtype=torch.bool)
    expected[range(ROWS), range(ROWS)] = True
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    expected[0, ROWS] = expected[1, ROWS] = True
    for positives in _targets(task, random_batch(ROWS), monkeypatch):
        assert torch.equal(positives, expected)


@pytest.mark.parametrize("settings", [{"compat": True}, {"mask_known_positives": False}], ids=str)
def test_the_released_form_knows_the_own_pair_only(settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task(PretrainConfig(queue_size=12, **settings))
    fill_queue(task, 9)
    filled = 12 if task.config.compat else 9
    for positives in _targets(task, random_batch(ROWS), monkeypatch):
        assert torch.equal(positives, torch.eye(ROWS, ROWS + filled, dtype=torch.bool))


def test_unfilled_queue_entries_never_act() -> None:
    batch = random_batch(ROWS)
    results = []
    for garbage in (0.0, 1e6):
        task = tiny_task(PretrainConfig(queue_size=12))
        with torch.no_grad():
            for buffer in (task.queue.images, task.queue.texts):
                buffer.add_(garbage)
        fill_queue(task, 4)
        results.append(losses_and_gradients(task, batch))
    assert results[0][0] == results[1][0]
    small = tiny_task(PretrainConfig(queue_size=4))
    fill_queue(small, 4)
    assert losses_and_gradients(small, batch)[0] == results[0][0]
    random_start = tiny_task(PretrainConfig(queue_size=12, mask_unfilled_queue=False))
    assert losses_and_gradients(random_start, batch)[0]["itc"] > losses_and_gradients(tiny_task(), batch)[0]["itc"]


def test_loss_weights_scale_their_loss() -> None:
    batch = random_batch(ROWS)
    weights = {"itc_weight": 0.5, "mlm_weight": 2.0, "itm_weight": 0.0}
    plain, _ = losses_and_gradients(tiny_task(), batch)
    task = tiny_task(PretrainConfig(queue_size=12, **weights))
    losses, gradients = losses_and_gradients(task, batch)
    assert losses == plain  # what is logged stays comparable whatever the weights
    assert task.total(losses) == pytest.approx(0.5 * plain["itc"] + 2.0 * plain["mlm"])
    assert not gradients["itm_head.weight"].any()


@pytest.mark.parametrize("wide_losses", ["plain", "sliced"])
def test_a_task_can_be_copied_and_pickled_and_keeps_momentum_and_queue_out_of_its_state(wide_losses: str) -> None:
    task, batch = tiny_task(compute=ComputeConfig(wide_losses=wide_losses)), random_batch(ROWS)
    fill_queue(task, 9)
    assert not any("queue" in name or "momentum" in name for name in task.state_dict())
    expected = losses_and_gradients(task, batch)[0]
    for other in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert other.queue is not task.queue and other.momentum is not task.momentum
        assert losses_and_gradients(other, batch)[0] == expected


def test_schedule_ramps_alpha_and_lets_random_negatives_fall() -> None:
    task = tiny_task(PretrainConfig(queue_size=4, alpha_ramp_epochs=2.0, itm_random_negatives=0.6, itm_random_epochs=3.0))
    assert task.schedule(0.0) == {"alpha": 0.0, "random_negatives": pytest.approx(0.6), "fuse": True}
    assert task.schedule(1.0) == {"alpha": pytest.approx(0.2), "random_negatives": pytest.approx(0.4), "fuse": True}
    assert task.schedule(9.0) == {"alpha": pytest.approx(0.4), "random_negatives": 0.0, "fuse": True}
    at_once = tiny_task(PretrainConfig(queue_size=4, alpha_ramp_epochs=0.0, itm_random_negatives=0.6))
    assert at_once.schedule(0.0) == at_once.schedule(50.0) == {"alpha": 0.4, "random_negatives": 0.6, "fuse": True}


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_first_epochs_may_align_alone_with_the_same_contrastive_loss_and_gradients(alpha: float) -> None:
    task = tiny_task(PretrainConfig(queue_size=12, itm_weight=0.0, mlm_weight=0.0, align_epochs=2.0))
    assert [task.schedule(epoch)["fuse"] for epoch in (0.0, 1.9, 2.0, 9.0)] == [False, False, True, True]
    fill_queue(task, 9)
    batch = random_batch(ROWS)
    results = []
    for fuse in (True, False):
        task.zero_grad()
        losses, metrics = task(batch, alpha=alpha, fuse=fuse)
        task.total(losses).backward()
        gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None and bool(p.grad.any())}
        results.append((losses, metrics, gradients))
    (both, told, gradients), (alone, told_alone, same) = results
    assert torch.equal(alone["itc"], both["itc"]) and alone.keys() == {"itc"}
    assert told_alone["itc_accuracy"] == told["itc_accuracy"]
    assert told_alone.keys() == told.keys() - {"itm_accuracy", "masked_tokens"}
    assert gradients.keys() == same.keys() and not any("multimodal" in name for name in same)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=0, atol=1e-12)


def _drawn(task: PretrainTask, batch: Any, **schedule: float) -> tuple[list[Tensor], dict[str, float]]:
    """Returns the drawn negatives (texts for images, images for texts), and the losses."""
    drawn: list[Tensor] = []
    real = task.draw

    def draw(*args: Any) -> Tensor:
        drawn.append(real(*args))
        return drawn[-1]

    task.draw = draw
    losses, _ = losses_and_gradients(task, batch, **schedule)
    del task.draw
    return drawn, losses


@pytest.mark.parametrize("random_negatives", [0.0, 0.5, 1.0])
def test_negatives_are_neither_own_nor_known_positives(random_negatives: float) -> None:
    task = tiny_task()
    for seed in range(20):
        batch = replace(random_batch(ROWS), positions=torch.arange(ROWS) + 1000 * seed)
        for chosen in _drawn(task, batch, random_negatives=random_negatives)[0]:
            rows = torch.arange(ROWS)
            assert bool((chosen != rows).all())
            assert bool((batch.image_ids[chosen] != batch.image_ids).all())
            assert bool((batch.caption_ids[chosen] != batch.caption_ids).all())


def test_a_batch_of_one_image_draws_other_rows() -> None:
    batch = random_batch(ROWS)
    batch = replace(batch, image_ids=torch.full((ROWS,), 7))
    drawn, losses = _drawn(tiny_task(), batch)
    assert all(bool((chosen != torch.arange(ROWS)).all()) for chosen in drawn)
    assert all(value == value and abs(value) < 100 for value in losses.values())


@pytest.mark.parametrize("gather", [False, True])
def test_a_lone_pair_is_refused_only_where_itm_needs_a_negative(gather: bool) -> None:
    batch = random_batch(1)
    with pytest.raises(ConfigError, match=r"train\.micro_batch_size of 1"):
        tiny_task(PretrainConfig(queue_size=4, gather_negatives=gather))(batch, alpha=0.4)
    task = tiny_task(PretrainConfig(queue_size=4, itm_weight=0.0))
    losses, _ = losses_and_gradients(task, batch)
    assert losses["mlm"] > 0.0 and task.total(losses) == pytest.approx(losses["itc"] + losses["mlm"])


def test_a_random_share_of_one_ignores_similarity_and_none_follows_it() -> None:
    task = tiny_task()
    sim = torch.tensor([0.0, 30.0, 0.0, 0.0]).expand(4000, -1)
    allowed = torch.tensor([False, True, True, True]).expand(4000, -1)
    own, rows, columns = torch.zeros(4000, dtype=torch.int64), torch.arange(4000), torch.arange(4)
    for share, hardest in ((0.0, 4000), (0.3, 4000 * (0.7 + 0.1)), (1.0, 4000 / 3)):
        counts = torch.bincount(task.draw(sim, allowed, own, rows, columns, share, 1), minlength=4)
        # Standard deviation of the counts: at most 30.
        assert int(counts[0]) == 0 and abs(int(counts[1]) - hardest) < 5 * 30


def test_draws_repeat_after_resume_and_do_not_depend_on_the_split() -> None:
    task, other = tiny_task(), tiny_task()
    generator = torch.Generator().manual_seed(0)
    sim = torch.randn(8, 8, generator=generator)
    allowed, own, positions = ~torch.eye(8, dtype=torch.bool), torch.arange(8), torch.arange(8) + 100
    whole = task.draw(sim, allowed, own, positions, positions, 0.5, 1)
    torch.rand(100)  # the global generator is elsewhere after a resume
    for rows in (slice(0, 3), slice(3, 8)):
        part = other.draw(sim[rows], allowed[rows], own[rows], positions[rows], positions, 0.5, 1)
        assert torch.equal(part, whole[rows])
    order = torch.randperm(8, generator=generator)  # another order of the candidates
    shuffled = task.draw(sim[:, order], allowed[:, order], order.argsort(), positions, positions[order], 0.5, 1)
    assert torch.equal(order[shuffled], whole)
    assert not torch.equal(task.draw(sim, allowed, own, positions, positions, 0.5, 2), whole)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_fp32_momentum_copy_beside_a_bf16_student(frozen: bool) -> None:
    task = tiny_task(model=tiny_model(frozen=frozen), dtype=torch.float32)
    batch = random_batch(ROWS, dtype=torch.float32)
    exact, _ = losses_and_gradients(task, batch)
    task.to(torch.bfloat16)
    low, gradients = losses_and_gradients(task, batch)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients.values())
    # bf16 weights carry 8 bits: relative differences of up to 1% were seen.
    assert low == pytest.approx(exact, rel=0.05)
