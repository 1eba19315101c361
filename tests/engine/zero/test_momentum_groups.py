"""Momentum groups: each holds the whole momentum model, all hold the same, and what is gathered equals the dense copy."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist

from albef_ds.common import comm
from albef_ds.common.errors import MachineError
from albef_ds.config.engine import EngineConfig
from albef_ds.engine import build
from albef_ds.engine.zero.momentum import ShardedMomentum, Slot
from albef_ds.engine.zero.momentum_groups import MomentumGroup, momentum_group, node_name, ranks_of_nodes
from albef_ds.engine.zero.setup import init_distributed
from albef_ds.models.momentum import unit_modules
from tests.distributed import run_ranks
from tests.engine.zero.common import CPU, make, micro_batches, tiny_batch, tiny_config, with_engine

GROUPS = {
    "1": [[0], [1], [2], [3]],
    "2": [[0, 1], [2, 3]],
    "2, ranks dealt over the nodes": [[0, 2], [1, 3]],
    "4": [[0, 1, 2, 3]],
}
"""Groups of 1, 2 and 4 of 4 ranks; a scheduler may deal ranks over nodes in turn."""
STEPS = 2


def _watch(momentum: ShardedMomentum) -> dict[str, torch.Tensor]:
    """Returns a dictionary that a forward pass fills with the full weights that its modules saw."""
    seen: dict[str, torch.Tensor] = {}

    def hook(prefix: str) -> Any:
        def keep(module: torch.nn.Module, _args: Any) -> None:
            seen.update({name: p.detach().clone() for name, p in module.named_parameters(prefix=prefix)})

        return keep

    for prefix, module in unit_modules(momentum.modules):
        module.register_forward_pre_hook(hook(prefix))
    return seen


def _pass(momentum: ShardedMomentum) -> None:
    albef, batch = momentum.modules["albef"], tiny_batch(0, 3)
    with torch.no_grad():
        image, text = albef.encode_image(batch.images), albef.encode_text(batch.token_ids, batch.token_mask)
        albef.project_image(image), albef.project_text(text, batch.token_mask), momentum.modules["mlm_head"](text)


def _unequal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]


def _one_stage(stage: int) -> dict[str, Any]:
    """Trains with one copy per kind of group, and compares what they hold and gather with a dense copy after each step."""
    config = with_engine(tiny_config(), stage=stage)
    task = build.build_task(config, "fp32")
    copies = {
        name: ShardedMomentum(task.base, 0.9, storage="fp32", group=MomentumGroup.of(ranks, comm.rank()), bucket_size=3000)
        for name, ranks in GROUPS.items()
    }
    task.attach_momentum(copies["1"])
    engine = build.build_engine(task, config, CPU, "fp32")
    for copy in copies.values():
        copy.to(CPU)
    seen = {name: _watch(copy) for name, copy in copies.items()}
    prefix = "base."
    dense = {name.removeprefix(prefix): weights.clone() for name, weights in engine.tensors("student") if prefix in name}
    dense["mlm_head.decoder.weight"] = dense["albef.text_encoder.embeddings.word.weight"]
    found: dict[str, Any] = {"unequal": [], "bytes": {name: copy.num_bytes for name, copy in copies.items()}}
    for step in range(STEPS):
        assert not engine.train_step(micro_batches(config, step), {"alpha": 0.4}, 1e-3).skipped
        for copy in list(copies.values())[1:]:
            copy.update()
        for name, weights in engine.tensors("student"):
            if prefix in name:
                dense[name.removeprefix(prefix)].lerp_(weights, 0.1)
        for name, copy in copies.items():
            seen[name].clear()
            _pass(copy)
            wrong = _unequal(seen[name], dense) + _unequal(copy.full_state_dict(), dense)
            found["unequal"] += [f"step {step}, groups of {name}: {parameter}" for parameter in wrong]
            found["seen"] = len(seen[name])
    saved = {name: copy.full_state_dict() for name, copy in copies.items()}
    kinds = list(copies)
    for name, other in zip(kinds, kinds[1:] + kinds[:1], strict=True):  # what one kind of groups saved, another one loads
        copies[name].copy_from_student()
        seen[name].clear()
        _pass(copies[name])  # what it has gathered is outdated after loading
        held = copies[name].full_state_dict()
        held["mlm_head.decoder.weight"] = held["albef.text_encoder.embeddings.word.weight"]
        wrong = _unequal(seen[name], held)
        found["unequal"] += [f"groups of {name}, the student copied: {parameter}" for parameter in wrong]
        copies[name].load_full_state_dict(saved[other])
        seen[name].clear()
        _pass(copies[name])
        wrong = _unequal(seen[name], dense) + _unequal(copies[name].full_state_dict(), dense)
        found["unequal"] += [f"groups of {other} loaded in groups of {name}: {parameter}" for parameter in wrong]
    return found


def _with_secondary_parts(file: str) -> dict[str, Any]:
    """Losses of ZeRO-3 without and with a copy of the parameters in each node (hpZ), also after loading over a forward pass."""
    found: dict[str, Any] = {}
    for name, knobs in (("plain", ""), ("secondary", file)):
        config = with_engine(tiny_config(), stage=3, ds_config=knobs, momentum_group="2")
        task, engine = make(config)
        start = {name: weights.clone() for name, weights in engine.tensors("student")}
        losses = [engine.train_step(micro_batches(config, step), {"alpha": 0.0}, 1e-3).losses for step in range(STEPS)]
        engine.dry_run(tiny_batch(9, 3), {"alpha": 0.0})
        engine.load_tensors("student", start)
        task.queue.filled = 0
        losses.append(engine.train_step(micro_batches(config, 0), {"alpha": 0.0}, 1e-3).losses)
        found[name] = losses
    found["copies"] = sum(p.ds_secondary_tensor_group_size == 2 for p in task.parameters())  # type: ignore[attr-defined]
    return found


def _every_stage(file: str) -> list[dict[str, Any]]:
    init_distributed(CPU)
    return [*(_one_stage(stage) for stage in range(4)), _with_secondary_parts(file)]


@cache
def _results() -> list[list[dict[str, Any]]]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"zero_optimization": {"zero_hpz_partition_size": 2, "stage3_param_persistence_threshold": 0}}, file)
        file.flush()
        return run_ranks(_every_stage, 4, file.name, timeout=600, fresh=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_groups_of_1_2_and_4_ranks_gather_equals_the_dense_copy_exactly(stage: int) -> None:
    for result in _results():
        assert result[stage]["unequal"] == []
        assert result[stage]["seen"] > 40


@pytest.mark.timeout(900)
def test_zero_3_with_secondary_parts_computes_what_zero_3_computes() -> None:
    for result in _results():
        plain, secondary = result[4]["plain"], result[4]["secondary"]
        assert result[4]["copies"] > 40
        for ours, theirs in zip(secondary, plain, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.timeout(900)
def test_a_group_holds_the_whole_model_and_under_zero_3_its_values_beside_its_part() -> None:
    numel = sum(p.numel() for p in build.build_task(tiny_config()).base.parameters())
    padding = 4 * 5 * 60
    for result in _results():
        for stage in range(4):
            sizes = result[stage]["bytes"]
            for name, ranks in GROUPS.items():
                expected = 4 * numel / len(ranks[0])
                if stage == 3 and len(ranks) > 1:
                    expected += 4 * numel / 4
                assert expected <= sizes[name] <= expected + padding, (stage, name)


def _made_groups() -> dict[str, Any]:
    names = {"together": "node", "apart": f"node {comm.rank() // 2}", "unequal": f"node {comm.rank() // 3}"}
    found: dict[str, Any] = {}
    for name, node in names.items():
        os.environ["NCCL_HOSTID"] = node
        found[name] = [list(ranks) for ranks in momentum_group(EngineConfig()).groups]
    del os.environ["NCCL_HOSTID"]
    found["one machine"] = [list(ranks) for ranks in momentum_group(EngineConfig()).groups]
    found["2"] = [list(ranks) for ranks in momentum_group(EngineConfig(momentum_group="2")).groups]
    return found


def test_a_group_is_a_node_unless_nodes_are_of_unequal_size() -> None:
    for found in run_ranks(_made_groups, 4):
        assert found["together"] == found["unequal"] == found["one machine"] == [[0, 1, 2, 3]]
        assert found["apart"] == found["2"] == [[0, 1], [2, 3]]


def test_ranks_that_are_dealt_over_nodes_find_their_node() -> None:
    assert ranks_of_nodes(["b", "a", "b", "a"]) == [[0, 2], [1, 3]]


def test_ranks_are_on_one_node_if_host_and_network_namespace_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_HOSTID", raising=False)
    here = node_name()
    assert here == node_name() and str(os.stat("/proc/self/ns/net").st_ino) in here.split()
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert node_name() != here


def _damaged(where: int, groups: str) -> str:
    """Returns what a save says on this rank after one bit of one rank's residual has flipped."""
    copy = ShardedMomentum(build.build_task(tiny_config()).base, 0.9, group=MomentumGroup.of(GROUPS[groups], comm.rank()))
    copy.full_state_dict()
    if comm.rank() == where:
        copy._units[3].storage.tensors()[1].view(torch.int16)[5] ^= 1
    try:
        copy.full_state_dict()
    except MachineError as error:
        return str(error)
    return "saved"


@pytest.mark.parametrize(("groups", "named"), [("1", "2"), ("2", "0, 2")])  # of two copies either may be the wrong one
def test_a_copy_that_differs_in_one_bit_is_found_on_every_rank_before_a_save(groups: str, named: str) -> None:
    for said in run_ranks(_damaged, 4, 2, groups):
        assert said.startswith(f"the momentum model on rank {named} differs from its copies in other groups")


def _stochastic() -> list[str]:
    student = build.build_task(tiny_config()).base
    copy = ShardedMomentum(student, 0.9, storage="fp16_stochastic", group=MomentumGroup.of(GROUPS["2"], comm.rank()))
    torch.manual_seed(comm.rank())
    for parameter in student.parameters():
        parameter.data.mul_(1.01)
    copy.update()
    return sorted(copy.full_state_dict())


def test_random_rounding_is_the_same_in_every_group() -> None:
    first, *others = run_ranks(_stochastic, 4)
    assert first and all(other == first for other in others)  # a save compares the groups' bits


def _after_half_a_pass(change: str) -> list[str]:
    """Returns the text weights that a forward pass sees outdated, if the one before ended after the image and weights changed."""
    student = build.build_task(tiny_config()).base
    copy = ShardedMomentum(student, 0.9, storage="fp32", group=MomentumGroup.of(GROUPS["2"], comm.rank()))
    albef, batch = copy.modules["albef"], tiny_batch(0, 3)
    seen = _watch(copy)
    with torch.no_grad():
        _pass(copy)
        albef.encode_image(batch.images)  # text units are on their way now
        for parameter in student.parameters():
            parameter.data.mul_(1.5)
        getattr(copy, change)()
        seen.clear()
        albef.encode_text(batch.token_ids, batch.token_mask)
    assert len(seen) > 10
    return _unequal(seen, copy.full_state_dict())


@pytest.mark.parametrize("change", ["update", "copy_from_student"])
def test_what_was_gathered_ahead_is_discarded_when_the_weights_change(change: str) -> None:
    assert run_ranks(_after_half_a_pass, 4, change) == [[], [], [], []]


def test_a_rank_beyond_the_end_of_a_parameter_has_an_empty_part() -> None:
    weights = torch.nn.Parameter(torch.arange(5.0))
    slot = Slot("w", weights, weights, weights.shape, 0, 2)
    assert [slot.local_student(rank).tolist() for rank in range(4)] == [[0, 1], [2, 3], [4], []]


def _messages_between_groups() -> int:
    """Returns the messages to another group in an update and a forward pass at a stage with full parameters."""
    copy = ShardedMomentum(build.build_task(tiny_config()).base, 0.9, group=MomentumGroup.of(GROUPS["2"], comm.rank()))
    between = 0
    real = comm.all_gather_single

    def counted(output: torch.Tensor, part: torch.Tensor, group: Any = None, **named: Any) -> Any:
        nonlocal between
        own = dist.get_process_group_ranks(group or dist.group.WORLD)
        between += own != next(list(ranks) for ranks in copy.group.groups if comm.rank() in ranks)
        return real(output, part, group=group, **named)

    comm.all_gather_single = counted
    try:
        copy.update()
        _pass(copy)
    finally:
        comm.all_gather_single = real
    return between


def test_a_forward_pass_sends_nothing_between_groups() -> None:
    assert run_ranks(_messages_between_groups, 4) == [0, 0, 0, 0]
