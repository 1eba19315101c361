"""Tests the throughput model: its sums, the overlap, and the messages of `albef-ds plan --throughput` for mistakes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.common.exit_codes import MISTAKE
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.config.schema import RunConfig
from albef_ds.launch.planning.communication import Traffic, step_traffic
from albef_ds.launch.planning.hardware import PRESETS, Hardware, Link, Overlap
from albef_ds.launch.planning.parameter_counts import ModelCounts, count
from albef_ds.launch.planning.throughput import at, forecast, scaling

SLOW = Link(1e9, 1e-5)
PLAIN = Hardware("plain", 1e14, 5e13, math.inf, 8, SLOW, SLOW, trees=False, overlap=Overlap(False, False, False))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return pretrain_4m()


@pytest.fixture(scope="module")
def counts(config: RunConfig) -> ModelCounts:
    return count(config)


def test_a_ring_takes_bytes_over_bandwidth_and_a_hop_per_rank() -> None:
    gather = Traffic("x", "all_gather", "float32", 8_000_000, 3)
    seconds = PLAIN.seconds(gather.operation, gather.sent(4), gather.calls, 4)
    assert seconds == pytest.approx(6e6 / 1e9 + 3 * 3 * 1e-5)
    assert PLAIN.seconds("all_reduce", 0.0, 1, 4) == pytest.approx(2 * 3 * 1e-5)
    assert replace(PLAIN, trees=True).seconds("all_reduce", 0.0, 1, 4) == pytest.approx(2 * 2 * 1e-5)


def test_between_nodes_all_ports_of_a_node_carry_a_message() -> None:
    narrow = replace(PLAIN, between=Link(1e7, 0.0), inside=Link(1e9, 0.0))
    assert narrow.seconds("all_gather", 8e6, 1, 8) == pytest.approx(8e6 / 1e9)
    assert narrow.seconds("all_gather", 8e6, 1, 16) == pytest.approx(8e6 / 8e7)


def test_a_ring_over_nodes_crosses_the_link_between_them_once_per_node() -> None:
    two = replace(PLAIN, per_node=2, inside=Link(1e9, 1e-6), between=Link(1e9, 1e-3))
    # Four ranks on two nodes: of any three links in a row at most two are between nodes.
    assert two.seconds("all_gather", 0.0, 1, 4) == pytest.approx(2e-3 + 1e-6)
    assert two.seconds("all_reduce", 0.0, 1, 4) == pytest.approx(3e-3 + 3e-6)
    assert replace(two, per_node=1).seconds("all_gather", 0.0, 1, 4) == pytest.approx(3e-3)
    # Gloo's ranks step together, and each step is announced by its receiver.
    gloo = replace(two, announced=True, inside=Link(math.inf, 1e-6), between=Link(math.inf, 1e-3))
    assert gloo.seconds("all_gather", 0.0, 1, 4) == pytest.approx(6e-3)
    assert gloo.seconds("all_reduce", 1e6, 1, 4) == pytest.approx(12e-3)
    assert gloo.seconds("all_reduce", 8.0, 1, 4) == pytest.approx(3e-3 + 3e-6)
    assert replace(two, scatters=False).seconds("reduce_scatter", 0.0, 1, 4) == pytest.approx(3e-3 + 3e-6)


def test_a_momentum_group_keeps_its_messages_inside_a_node_whatever_the_number_of_nodes(
    config: RunConfig, counts: ModelCounts
) -> None:
    slow = replace(PLAIN, inside=Link(1e11, 1e-6), between=Link(1e6, 1.0))

    def momentum(group: str, world_size: int) -> tuple[float, float]:
        grouped = replace(at(config, world_size, 1, False), engine=replace(config.engine, stage=1, momentum_group=group))
        [one] = [one for one in forecast(grouped, counts, slow, world_size).exchanges if one.purpose == "momentum"]
        return one.num_bytes, one.seconds

    assert momentum("node", 64) == momentum("8", 64) == momentum("node", 8) == momentum("world", 8)
    assert momentum("world", 64)[1] > 100 * momentum("node", 64)[1]


def test_zero_3_fetches_for_the_backward_pass_inside_a_group_that_has_a_second_copy(counts: ModelCounts, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    knobs = {"stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 50_000_000}
    knobs |= {"stage3_param_persistence_threshold": 0, "zero_hpz_partition_size": 8}
    file.write_text(json.dumps({"zero_optimization": knobs}))
    config = at(pretrain_4m(), 64, 3, False)
    config = replace(config, engine=replace(config.engine, ds_config=str(file)))
    fetches = [one for one in step_traffic(config, counts, "bf16", 64, 8) if one.purpose == "parameters" and one.beside]
    assert [(one.beside, one.ranks, one.num_bytes) for one in fetches] == [
        ("forward", 0, fetches[0].num_bytes),
        ("backward", 8, fetches[0].num_bytes),
    ]
    recomputed = replace(config, compute=replace(config.compute, checkpoint_visual=True))
    assert all(one.ranks == 0 for one in step_traffic(recomputed, counts, "bf16", 64, 8) if one.purpose == "parameters")


def test_a_library_without_reduce_scatter_sends_the_bytes_of_an_all_reduce() -> None:
    scatter = Traffic("gradients", "reduce_scatter", "float32", 1000, 1)
    assert replace(PLAIN, scatters=False).sent(scatter, 4) == replace(scatter, operation="all_reduce").sent(4)


def test_one_rank_computes_and_waits_for_nobody(config: RunConfig, counts: ModelCounts) -> None:
    alone = forecast(at(config, 1, 2, False), counts, PLAIN, 1)
    assert not alone.exchanges and alone.step == alone.compute
    assert alone.utilisation == pytest.approx(0.5)  # no recomputation, and the rate is half of the peak
    assert alone.hours(14e6, 30) == pytest.approx(14e6 * 30 / alone.images_per_second / 3600)


def test_without_overlap_a_step_is_the_sum_of_its_parts_and_overlap_shortens_it(
    config: RunConfig, counts: ModelCounts, tmp_path: Path
) -> None:
    file = tmp_path / "zero.json"
    file.write_text('{"zero_optimization": {"overlap_comm": true, "reduce_bucket_size": 25000000}}')
    tuned = replace(config, engine=replace(config.engine, ds_config=str(file)))
    plain, hidden = (forecast(tuned, counts, replace(PLAIN, overlap=overlap), 8) for overlap in (PLAIN.overlap, Overlap()))
    assert plain.step == pytest.approx(plain.compute + sum(exchange.seconds for exchange in plain.exchanges))
    exposed = {exchange.purpose: exchange.exposed / exchange.seconds for exchange in hidden.exchanges}
    assert exposed["gradients"] < 1 and exposed["momentum"] < 1
    # Nothing is left to hide the updated parameters; the features are sent before what hides them begins.
    assert exposed["parameters"] == 1 and exposed["features"] == 0
    # One bucket as large as the model leaves when the backward pass is over.
    file.write_text('{"zero_optimization": {"overlap_comm": true}}')
    [gradients] = [e for e in forecast(tuned, counts, replace(PLAIN, overlap=Overlap()), 8).exchanges if e.purpose == "gradients"]
    assert gradients.exposed == gradients.seconds


def test_a_loader_slower_than_the_gpus_sets_the_pace(config: RunConfig, counts: ModelCounts) -> None:
    starved = forecast(config, counts, replace(PLAIN, images=1.0), 8)
    assert starved.images_per_second == pytest.approx(8.0)


def test_a_fixed_batch_is_shared_out_until_a_rank_has_no_negative_left(config: RunConfig, counts: ModelCounts) -> None:
    rows = scaling(config, counts, PRESETS["h100"], fixed_batch=True, stages=(2,))
    assert {row[2].config.train.global_batch_size for row in rows} == {512}
    assert rows[-1][2].world_size == 256 and rows[-1][2].config.train.micro_batch_size == 2
    free = scaling(config, counts, PRESETS["h100"], fixed_batch=False, stages=(2,))
    assert free[-1][2].world_size == 1024 and free[-1][2].config.train.micro_batch_size == 64


def test_the_command_prints_a_step_hours_and_all_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--recipe", "pretrain_14m", "--gpus", "8", "--throughput", "--rate", "300", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["compute_seconds"] == pytest.approx(64 * 247.2e9 / 300e12, rel=1e-3)
    assert {(row["gpus"], row["stage"]) for row in plan["scaling"]} == {(2**n, stage) for n in range(11) for stage in (1, 2, 3)}
    assert main(["plan", "--recipe", "pretrain_14m", "--gpus", "8", "--throughput"]) == 0
    text = capsys.readouterr().out
    assert "14M pairs x 30 epochs" in text and "ZeRO-3" in text and "not a measurement" in text


def test_a_stage_that_other_settings_do_not_allow_is_left_out_and_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--recipe", "pretrain_4m", "--gpus", "8", "--throughput", "engine.momentum_storage=dense"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "ZeRO-2" in text and "ZeRO-3 left out" in text
    assert main([*command, "--json"]) == 0
    assert {row["stage"] for row in json.loads(capsys.readouterr().out)["scaling"]} == {1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "300"], "--rate is for speed only: add --throughput"),
        (["--throughput", "--rate", "fast"], "fast cannot be used"),
        (["--throughput", "--gpus", "7"], "train.global_batch_size"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--recipe", "pretrain_4m", *arguments]) == MISTAKE
    assert message in capsys.readouterr().err
