"""The real engine communicates in a step what the formula predicts, and as much as before."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.launch.planning.communication import Traffic, fetches_per_pass, step_traffic
from albef_ds.launch.planning.parameter_counts import count
from tests.counts.steps import WORLD_SIZES, file_of, measured, table


def _bytes(traffic: list[Traffic]) -> dict[tuple[str, str, str], int]:
    total: Counter[tuple[str, str, str]] = Counter()
    for one in traffic:
        total[one.purpose, one.operation, one.dtype] += one.num_bytes
    return dict(total)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_bytes_of_a_step_equal_the_formula_on_every_rank(world_size: int) -> None:
    for name, found in measured(world_size).items():
        planned = _bytes(found["planned"])
        everywhere = [_bytes([Traffic(**one) for one in counts["traffic"]]) for counts in found["ranks"]]
        # Which rows a rank has to send depends on the draws; all ranks together receive as many as they want.
        for drawn in [key for key in planned if key[1] == "all_to_all"]:
            assert sum(counts.pop(drawn) for counts in everywhere) == world_size * planned.pop(drawn), name
        for rank, counts in enumerate(everywhere):
            assert counts == planned, f"{name}, rank {rank}"


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_our_own_messages_are_as_many_as_the_formula_says(world_size: int) -> None:
    for name, found in measured(world_size).items():
        real = [Traffic(**one) for one in found["ranks"][0]["traffic"]]
        for purpose in ("features", "momentum"):  # DeepSpeed's depend on where its buckets end
            own, planned = (sum(one.calls for one in kind if one.purpose == purpose) for kind in (real, found["planned"]))
            assert own == planned > 0, f"{name}, {purpose}"


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_zero_3_sends_about_as_many_messages_for_parameters_as_the_formula_says(world_size: int) -> None:
    for name, found in measured(world_size).items():
        if name.startswith("stage 3"):
            real = [Traffic(**one) for one in found["ranks"][0]["traffic"]]
            own, planned = (sum(one.calls for one in kind if one.purpose == "parameters") for kind in (real, found["planned"]))
            # Of two micro-batches; the first module of a pass may have small parameters only, and fetch nothing itself.
            assert planned - 2 <= own <= planned, name


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_step_counts_what_it_counted_when_it_was_committed(world_size: int) -> None:
    committed, now = json.loads(file_of(world_size).read_text()), table(world_size)
    changed = [
        f"{name}: {key}: {old.get(key)} committed, {new.get(key)} now"
        for name in committed["cases"].keys() | now["cases"].keys()
        for old, new in [(committed["cases"].get(name, {}), now["cases"].get(name, {}))]
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    # Other versions of torch or DeepSpeed call other operators: the versions say why the counts moved.
    versions = f"{file_of(world_size).name}, counted with {committed['versions']}, running {now['versions']}:"
    assert not changed, "\n".join([versions, *changed, "if this is meant: python -m tests.counts.steps"])


def test_without_pseudo_targets_the_momentum_models_words_do_not_travel() -> None:
    config = pretrain_4m()
    counts = count(config)

    def momentum(alpha: float) -> int:
        plain = replace(config, task=replace(config.pretraining(), alpha=alpha))
        return sum(t.num_bytes for t in step_traffic(plain, counts, "bf16", 8) if t.purpose == "momentum")

    words = sum(sum(own) + sum(lent) for name, own, lent in _named(counts) if "multimodal" in name or "mlm_head" in name)
    assert momentum(0.4) - momentum(0.0) == pytest.approx(2 * words, rel=1e-4)  # fp16, and a little padding


def _named(counts: Any) -> Any:
    return zip(counts.unit_names, counts.units, counts.borrowed, strict=True)


def test_a_ring_sends_an_all_reduce_twice() -> None:
    once = Traffic("gradients", "reduce_scatter", "float32", 1000, 1)
    assert once.sent(4) == 750 and replace(once, operation="all_reduce").sent(4) == 1500


def test_zero_3_keeps_a_model_that_fits_the_reuse_distance_and_fetches_a_larger_one_again() -> None:
    config = pretrain_4m()
    counts = count(config)
    checkpointed = replace(config, compute=replace(config.compute, checkpoint_visual=True))
    assert fetches_per_pass(config, counts, 2 * counts.total) == 1
    assert fetches_per_pass(config, counts, 2 * counts.total - 1) == 2
    assert fetches_per_pass(checkpointed, counts, 0) == 3
    # Prefetching that may take everything never frees a parameter that is used again.
    assert fetches_per_pass(checkpointed, counts, 0, counts.total) == 1
