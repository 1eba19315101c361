"""The sharded momentum model equals the dense one, costs 1/N per rank, and updates without communication."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from albef_ds.common import comm
from albef_ds.engine import build
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.models.momentum import DenseMomentum, unit_modules
from tests.distributed import run_ranks
from tests.engine.zero.common import tiny_batch, tiny_config

COLLECTIVES = [
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "broadcast",
    "all_to_all_single",
    "barrier",
    "send",
    "recv",
]


BUCKET = 12_000
"""Two blocks fit into a message."""


def _student() -> nn.ModuleDict:
    return build.build_task(tiny_config()).base


def _move(student: nn.ModuleDict, step: int, size: float) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in student.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


def _outputs(modules: nn.ModuleDict) -> list[torch.Tensor]:
    albef, batch = modules["albef"], tiny_batch(0)
    with torch.no_grad():
        image, text = albef.encode_image(batch.images), albef.encode_text(batch.token_ids, batch.token_mask)
        return [albef.project_image(image), albef.project_text(text, batch.token_mask), modules["mlm_head"](text)]


def _follow_a_walk(storage: str, steps: int) -> dict[str, Any]:
    """Returns weights and outputs of dense and sharded copies of one changing student, and the memory of the sharded one."""
    student = _student()
    dense = DenseMomentum(student, 0.9)
    sharded = ShardedMomentum(student, 0.9, storage=storage, bucket_size=BUCKET)
    for step in range(steps):
        _move(student, step, 0.01)
        dense.update()
        sharded.update()
        if step in (0, steps - 1):
            ours = _outputs(sharded.modules)
    theirs = dense.full_state_dict()
    return {
        "weights": {name: (tensor, theirs[name]) for name, tensor in sharded.full_state_dict().items()},
        "outputs": list(zip(ours, _outputs(dense.modules), strict=True)),
        "names": set(theirs) - {"mlm_head.decoder.weight"} == set(sharded.full_state_dict()),
        "gathered": sharded.max_gathered_elements,
        "left": max(p.numel() for p in sharded.modules.parameters()),
        "bytes": sharded.num_bytes,
        "numel": sum(p.numel() for p in student.parameters()),
        "units": len(unit_modules(student)),
        "tensors": len(list(student.parameters())),
    }


@cache
def _walk(world_size: int) -> list[dict[str, Any]]:
    """Every rank's result of 20 updates in the form that training uses."""
    return run_ranks(_follow_a_walk, world_size, "value_residual", 20)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_fp32_storage_equals_the_dense_copy_exactly(world_size: int) -> None:
    for result in run_ranks(_follow_a_walk, world_size, "fp32", 3):
        assert result["names"]
        for name, (ours, theirs) in result["weights"].items():
            assert torch.equal(ours, theirs), name
        for ours, theirs in result["outputs"]:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_value_and_residual_equal_the_dense_copy_to_2e_6(world_size: int) -> None:
    result = _walk(world_size)[0]
    for name, (ours, theirs) in result["weights"].items():
        # Worst measured: 2.4e-7 of the largest weight, after 20 updates.
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-6, name
    for ours, theirs in result["outputs"]:
        assert torch.allclose(ours, theirs, atol=5e-3)


def test_bytes_per_rank_fall_as_one_over_n_and_nothing_stays_whole() -> None:
    for world_size in (1, 2, 4):
        for result in _walk(world_size):
            exact = 4 * result["numel"] / world_size
            assert exact <= result["bytes"] <= exact + 4 * result["tensors"]  # at most one padding element per tensor
            assert result["left"] == 0  # nothing stays whole between forward passes
            if world_size > 1:
                assert 2 * BUCKET < result["gathered"] <= 3 * BUCKET + result["tensors"] * world_size  # one computes, two arrive


def _count_collectives() -> dict[str, int]:
    student = _student()
    sharded = ShardedMomentum(student, 0.9, bucket_size=BUCKET)
    calls = {"update": 0, "forward": 0, "again": 0}
    phase = "update"

    def count(function: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls[phase] += 1
            return function(*args, **kwargs)

        return wrapper

    originals = {name: getattr(dist, name) for name in COLLECTIVES}
    single = comm.all_gather_single
    for name, function in originals.items():
        setattr(dist, name, count(function))
    comm.all_gather_single = count(single)
    try:
        sharded.update()
        phase = "forward"
        _outputs(sharded.modules)
        phase = "again"
        _outputs(sharded.modules)
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)
        comm.all_gather_single = single
    return calls | {"units": len(unit_modules(student))}


def test_an_update_issues_no_collective() -> None:
    for calls in run_ranks(_count_collectives, 2):
        assert calls["update"] == 0
        assert calls["forward"] == calls["units"] - 2  # the first pass learns the order: all but the two fusion layers
        # Image: embedding, block, block with norm. Text: embedding with a layer, a layer with both projections; the MLM head.
        assert calls["again"] == 6


def test_padding_is_never_read() -> None:
    """A rank beyond the end of a parameter contributes nothing, whatever its padding contains."""
    [result] = run_ranks(_poisoned_padding, 1)
    assert result


def _poisoned_padding() -> bool:
    student = nn.ModuleDict({"head": nn.Linear(3, 1)})
    sharded = ShardedMomentum(student, 0.5, storage="fp32")
    unit = sharded._units[0]
    weight = unit.slots[0]
    # As rank 2 of 3 would see a tensor of 3 elements cut into parts of 2: rank 1 has one element, rank 2 none.
    cut = type(weight)(weight.name, weight.student, weight.momentum, weight.shape, 0, 2)
    return [cut.valid(rank) for rank in range(3)] == [2, 1, 0] and cut.local_student(2).numel() == 0


def test_a_bare_parameter_outside_of_any_unit_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.blocks = nn.ModuleList([nn.Linear(2, 2)])

    with pytest.raises(AssertionError, match="token"):
        unit_modules(nn.ModuleDict({"odd": Odd()}))


def test_frozen_parts_are_the_students_own() -> None:
    student = _student()
    student["albef"].text_encoder.requires_grad_(False)
    sharded = ShardedMomentum(student, 0.9)
    assert sharded.modules["albef"].text_encoder is student["albef"].text_encoder
    assert not any(name.startswith("albef.text_encoder") for name in sharded.full_state_dict())
    assert math.isfinite(float(_outputs(sharded.modules)[0].sum()))


def test_loading_whole_tensors_restores_what_was_saved() -> None:
    student = _student()
    first, second = ShardedMomentum(student, 0.9), ShardedMomentum(student, 0.9)
    _move(student, 0, 0.1)
    first.update()
    second.load_full_state_dict(first.full_state_dict())
    for name, tensor in first.full_state_dict().items():
        assert torch.equal(tensor, second.full_state_dict()[name]), name
