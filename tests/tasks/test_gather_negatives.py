"""Losses, gradients, negatives and the queue over several gloo ranks equal those of a single process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from albef_ds.common import comm
from albef_ds.config.schema import ComputeConfig, PretrainConfig
from albef_ds.data.batch import ImageTextBatch
from tests.distributed import run_ranks
from tests.tasks.tiny import fill_queue, random_batch, shortest_form, tiny_model, tiny_task

ROWS = 8
Result = dict[str, Any]


def _uneven(batch: ImageTextBatch) -> ImageTextBatch:
    """Rows from 4 on predict one token each, so that ranks differ in masked tokens."""
    labels, masked = batch.mlm_labels.clone(), batch.masked_ids.clone()
    labels[4:, 2:], masked[4:, 2:] = -100, batch.token_ids[4:, 2:]
    return replace(batch, mlm_labels=labels, masked_ids=masked)


def _train(gather: bool, accumulation: int, compute: dict[str, bool], frozen: bool) -> Result:
    """Returns for this rank's share of one batch of ROWS: losses averaged over ranks, data-parallel gradients, draws, queue."""
    config = PretrainConfig(queue_size=12, gather_negatives=gather)
    task = tiny_task(config, ComputeConfig(**compute), tiny_model(frozen=frozen))
    fill_queue(task, 9)
    rows = ROWS // comm.world_size() // accumulation
    whole = _uneven(random_batch(ROWS))
    drawn: list[Tensor] = []
    real = task.draw

    def draw(*args: Any) -> Tensor:
        drawn.append(real(*args))
        return drawn[-1]

    task.draw = draw
    totals: dict[str, float] = {}
    lengths = []
    for number in range(accumulation):
        start = (number * comm.world_size() + comm.rank()) * rows
        batch = shortest_form(whole[start : start + rows])
        lengths.append(batch.token_ids.shape[1])
        losses, _ = task(batch, alpha=0.4)
        (torch.stack(list(losses.values())).sum() / accumulation).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach()) / accumulation
    # Rank order is not sample order: with accumulation a rank's two micro-batches lie apart.
    task.after_step()
    gradients = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            gradients[name] = comm.all_reduce_sum(parameter.grad) / comm.world_size()
    return {
        "losses": comm.all_reduce_mean(totals, torch.device("cpu")),
        "gradients": gradients,
        "queue": list(task.queue.contents()),
        "drawn": [comm.all_gather(chosen) for chosen in drawn],
        "lengths": lengths,
    }


def _assert_equal(got: Result, expected: Result, bound: float = 1e-6) -> None:
    assert got["losses"] == pytest.approx(expected["losses"], rel=bound)
    assert got["gradients"].keys() == expected["gradients"].keys()
    # Relative to the largest gradient; worst seen 2e-15.
    scale = max(float(gradient.abs().max()) for gradient in expected["gradients"].values())
    for name, gradient in expected["gradients"].items():
        assert float((got["gradients"][name] - gradient).abs().max()) <= bound * scale, name
    for ours, theirs in zip(got["queue"], expected["queue"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("world", "compute", "frozen"),
    [
        pytest.param(1, {}, False, id="1 rank"),
        pytest.param(2, {}, False, id="2 ranks"),
        pytest.param(4, {}, False, id="4 ranks"),
        pytest.param(2, {"checkpoint_multimodal": True, "checkpoint_text": True}, False, id="2 ranks, checkpointed"),
        pytest.param(2, {"one_fusion_call": False}, True, id="2 ranks, frozen text encoder"),
    ],
)
def test_gathered_negatives_make_ranks_equal_to_one_process(world: int, compute: dict[str, bool], frozen: bool) -> None:
    expected = _train(True, 1, compute, frozen)
    results = run_ranks(_train, world, True, 1, compute, frozen)
    for got in results:
        _assert_equal(got, expected)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(got["drawn"], expected["drawn"], strict=True))
    lengths = {got["lengths"][0] for got in results}
    assert world == 1 or len(lengths) > 1, "the ranks' texts must differ in length for this to be a test"


def test_local_negatives_make_ranks_equal_to_accumulation() -> None:
    expected = _train(False, 2, {}, False)
    for got in run_ranks(_train, 2, False, 1, {}, False):
        _assert_equal(got, expected)
    for got in run_ranks(_train, 2, False, 2, {}, False):
        _assert_equal(got, _train(False, 4, {}, False))


def test_gathered_negatives_with_accumulation_equal_one_rank_with_as_many_micro_batches() -> None:
    expected = _train(True, 2, {}, False)
    for got in run_ranks(_train, 4, True, 2, {}, False):
        _assert_equal(got, expected)


def test_gathering_changes_the_loss() -> None:
    local, gathered = _train(False, 2, {}, False), _train(True, 1, {}, False)
    assert local["losses"]["itc"] != pytest.approx(gathered["losses"]["itc"], rel=1e-3)


def _lone_pairs() -> dict[str, float]:
    task = tiny_task(PretrainConfig(queue_size=4, gather_negatives=True))
    losses, _ = task(random_batch(1, start=comm.rank()), alpha=0.4)
    return {name: float(value.detach()) for name, value in losses.items()}


def test_one_pair_per_rank_finds_its_negatives_on_other_ranks() -> None:
    task = tiny_task(PretrainConfig(queue_size=4))
    losses, _ = task(random_batch(2, duplicates=False), alpha=0.4)
    ranks = run_ranks(_lone_pairs, 2)
    # Samples 0 and 1 of the batch with duplicates show one image: the fallback draws the other rank's.
    assert sum(rank["itm"] for rank in ranks) / 2 == pytest.approx(float(losses["itm"].detach()))


def _projected_images() -> int:
    task = tiny_task(PretrainConfig(queue_size=4, gather_negatives=True))
    seen: list[int] = []
    layer = task.model.multimodal_encoder.layers[0]
    layer.cross_attention.key_value.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[0]))
    task(random_batch(2, start=2 * comm.rank()), alpha=0.4)
    return max(seen)


def test_keys_and_values_of_drawn_images_only_are_projected() -> None:
    # Two own images and two drawn ones, not the eight of all ranks.
    assert run_ranks(_projected_images, 4) == [4, 4, 4, 4]
