"""The momentum model in sharded buffers: each rank keeps 1/N of every unit, whole units exist only while they compute.

A unit is what runs at once: a transformer block, an embedding, a head. Its parameters are cut as ZeRO-3 cuts the
student's, `ceil(numel / N)` elements per rank and parameter, and lie behind one another in one flat storage:

    rank 0: [ w: first part | b: first part | ... ]        all_gather        unit: [ w | b | ... ]
    rank 1: [ w: second part | b: second part | ... ]   ---------------->    alive from the unit's forward pre-hook
                                                                             to its forward hook

While a unit computes, the next one is on its way, so at most two are whole. An update averages local parts with local
parts and issues no collective: under ZeRO-3 the student's fp32 master part is the one that lies here; at stages 0 to 2
every rank holds the student's whole parameter (in its compute precision) and cuts its part out.

The last rank's part may be longer than what is left of the parameter. Those trailing elements are never read: in
DeepSpeed's own parts they are uninitialised memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.common import comm
from albef_ds.engine.zero import internals
from albef_ds.engine.zero.storage import STORAGES, Storage
from albef_ds.models.momentum import momentum_copy, unit_modules


@dataclass(frozen=True)
class Slot:
    """Where one parameter's local part lies in its unit's flat storage."""

    name: str
    student: nn.Parameter
    momentum: nn.Parameter
    shape: torch.Size
    start: int
    size: int
    """Elements per rank, ceil(numel / N)."""
    frozen: bool = False
    """The student's weights, kept for a module of the copy alone: no part of the momentum model's state."""

    def valid(self, rank: int) -> int:
        """Elements of this rank's part that exist; the rest is padding."""
        return max(0, min(self.size, self.shape.numel() - rank * self.size))

    def local_student(self, rank: int) -> Tensor:
        """This rank's part of the student, flat, without padding: fp32 master under ZeRO-3, else as computed with."""
        valid = self.valid(rank)
        if internals.is_partitioned(self.student):
            return internals.local_part(self.student)[:valid]
        return self.student.detach().reshape(-1).narrow(0, min(rank * self.size, self.shape.numel()), valid)


class Unit:
    """One module's parameters: the sharded storage, and the whole weights while they are alive."""

    def __init__(self, name: str, slots: list[Slot], borrowed: list[tuple[Unit, Slot]], storage: Storage) -> None:
        self.name = name
        self.slots = slots
        self.borrowed = borrowed
        """Parameters that this module shares with an earlier unit, which stores them."""
        self.storage = storage
        self.arriving: list[tuple[Slot, Tensor, int, int, Any]] | None = None

    def start_gather(self) -> None:
        """Ask for the other ranks' parts; `finish_gather` waits for them."""
        assert self.arriving is None
        self.arriving = []
        if self.slots:
            gathered, work = _all_gather(self.storage.travelling)
            self.arriving += [(slot, gathered, slot.start, slot.size, work) for slot in self.slots]
        for owner, slot in self.borrowed:
            gathered, work = _all_gather(owner.storage.travelling.narrow(0, slot.start, slot.size))
            self.arriving.append((slot, gathered, 0, slot.size, work))

    def finish_gather(self, dtype: torch.dtype) -> None:
        """Make the module's parameters whole, in `dtype`."""
        if self.arriving is None:
            self.start_gather()
        assert self.arriving is not None
        for slot, gathered, start, size, work in self.arriving:
            if work is not None:
                work.wait()
            whole = gathered[:, start : start + size].reshape(-1)[: slot.shape.numel()]
            slot.momentum.data = whole.view(slot.shape).to(dtype)
        self.arriving = None

    def release(self, dtype: torch.dtype) -> None:
        """Drop the whole weights."""
        for slot in [*self.slots, *(slot for _, slot in self.borrowed)]:
            slot.momentum.data = torch.empty(0, dtype=dtype, device=self.storage.travelling.device)

    def drop_arriving(self) -> None:
        """Throw a prefetched gather away."""
        for *_, work in self.arriving or []:
            if work is not None:
                work.wait()
        self.arriving = None


def _all_gather(part: Tensor) -> tuple[Tensor, Any]:
    """(S,) of every rank as (N, S), and the work to wait for (None: it is there)."""
    if not comm.is_distributed():
        return part[None], None
    gathered = part.new_empty((comm.world_size(), part.numel()))
    return gathered, comm.all_gather_single(gathered.view(-1), part, async_op=True)


class ShardedMomentum:
    """See `albef_ds.models.momentum.Momentum` and the module docstring. One class for every ZeRO stage and for one process.

    Args:
        student: the trained modules, whole or partitioned by `zero.Init`. The process group is up if there is to be one.
        decay: m of the moving average.
        storage: a key of `STORAGES`.
        dropout: leave the copy in train mode, as the released code does.
    """

    def __init__(self, student: nn.ModuleDict, decay: float, *, storage: str = "value_residual", dropout: bool = False) -> None:
        self.student = student
        self.decay = decay
        self.rank, self.world_size = comm.rank(), comm.world_size()
        self.max_whole_units = 0
        """Most units that were whole or arriving at the same time so far."""
        self._modules = momentum_copy(student, dropout=dropout, hollow=True)
        self._dtype = torch.float32
        self._units = self._make_units(storage)
        self._whole: set[str] = set()
        self._trace: list[Unit] = []
        self._next: dict[str, Unit | None] = {}
        self.copy_from_student()

    @property
    def modules(self) -> nn.ModuleDict:
        """The copy; its parameters have data only while their unit computes."""
        return self._modules

    @property
    def num_bytes(self) -> int:
        """Bytes that this rank keeps between forward passes."""
        return sum(unit.storage.num_bytes for unit in self._units)

    def largest_unit_bytes(self) -> int:
        """Bytes of the largest unit while it is whole, in the forward pass's precision."""
        itemsize = self._dtype.itemsize
        return max(sum(s.shape.numel() for s in [*u.slots, *(b for _, b in u.borrowed)]) * itemsize for u in self._units)

    def _make_units(self, storage: str) -> list[Unit]:
        students = dict(self.student.named_parameters(remove_duplicate=False))
        owners: dict[int, tuple[Unit, Slot]] = {}
        shared = set(self.student.modules())
        hollow: dict[int, nn.Parameter] = {}
        units = []
        for prefix, module in unit_modules(self._modules):
            slots: list[Slot] = []
            borrowed: list[tuple[Unit, Slot]] = []
            start = 0
            for name, momentum in list(module.named_parameters(prefix=prefix)):
                student = students[name]
                frozen = momentum is student  # hence shared with the student
                if frozen and (module in shared or not internals.is_partitioned(student)):
                    continue
                if frozen:  # ZeRO-3 makes it whole for the student's modules only: this module needs a copy
                    momentum = hollow.setdefault(id(student), nn.Parameter(torch.empty(0), requires_grad=False))
                    _replace(module, student, momentum)
                if id(momentum) in owners:
                    borrowed.append(owners[id(momentum)])
                    continue
                shape = torch.Size(getattr(student, "ds_shape", student.shape))
                size = -(-shape.numel() // self.world_size)
                slots.append(Slot(name, student, momentum, shape, start, size, frozen))
                start += size
            if not slots and not borrowed:
                continue
            unit = Unit(prefix, slots, borrowed, STORAGES[storage](start))
            owners |= {id(slot.momentum): (unit, slot) for slot in slots}
            units.append(unit)
            module.register_forward_pre_hook(self._before(unit))
            module.register_forward_hook(self._after(unit))
        return units

    def _before(self, unit: Unit) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            assert not torch.is_grad_enabled(), "the momentum model computes without gradients"
            unit.finish_gather(self._dtype)
            self._whole.add(unit.name)
            following = self._follow(unit)
            if following is not None:
                following.start_gather()
            self.max_whole_units = max(self.max_whole_units, len(self._whole) + (following is not None))

        return hook

    def _after(self, unit: Unit) -> Any:
        def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
            unit.release(self._dtype)
            self._whole.discard(unit.name)

        return hook

    def _follow(self, unit: Unit) -> Unit | None:
        """The unit that came after `unit` last time, if it is not on its way; learns the order as it goes.

        A pass begins when its first unit computes again; nothing is fetched across that boundary, where an update may lie.
        """
        if self._trace and unit is not self._trace[0]:
            self._next[self._trace[-1].name] = unit
        elif self._trace:
            self._next[self._trace[-1].name] = None
            self._trace = []
        self._trace.append(unit)
        following = self._next.get(unit.name)
        return following if following is not None and following.arriving is None else None

    @torch.no_grad()
    def update(self) -> None:
        """See `Momentum.update`: local parts only, no collective."""
        for unit in self._units:
            unit.drop_arriving()
            if unit.slots:
                unit.storage.average(self._local_student(unit), self.decay)

    @torch.no_grad()
    def copy_from_student(self) -> None:
        """See `Momentum.copy_from_student`."""
        for unit in self._units:
            unit.drop_arriving()
            if unit.slots:
                unit.storage.write(self._local_student(unit))

    def _local_student(self, unit: Unit) -> Tensor:
        """fp32 (S,): the student's local parts of a unit in the layout of its storage; padding is 0."""
        flat = torch.zeros(unit.storage.travelling.numel(), device=unit.storage.travelling.device)
        for slot in unit.slots:
            part = slot.local_student(self.rank)
            flat.narrow(0, slot.start, part.numel()).copy_(part)
        return flat

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole fp32 weights, one parameter at a time; all ranks walk through it together."""
        for unit in self._units:
            local = unit.storage.read()
            for slot in (slot for slot in unit.slots if not slot.frozen):
                whole = comm.all_gather(local.narrow(0, slot.start, slot.size))
                yield slot.name, whole[: slot.shape.numel()].view(slot.shape)

    def full_state_dict(self) -> dict[str, Tensor]:
        """See `Momentum.full_state_dict`."""
        return {name: whole.cpu().clone() for name, whole in self.parameters()}

    @torch.no_grad()
    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Momentum.load_full_state_dict`. Names of frozen parameters may be there; they are the student's."""
        for unit in self._units:
            unit.drop_arriving()
            flat = torch.zeros_like(unit.storage.travelling, dtype=torch.float32)
            for slot in unit.slots:
                if slot.frozen:
                    part = slot.local_student(self.rank)
                else:
                    part = state[slot.name].reshape(-1)[self.rank * slot.size :][: slot.valid(self.rank)]
                flat.narrow(0, slot.start, part.numel()).copy_(part)
            unit.storage.write(flat)

    def to(self, device: torch.device) -> None:
        """See `Momentum.to`; also takes over the precision that an engine has given the student."""
        floating = [p.dtype for p in self.student.parameters() if p.requires_grad]
        self._dtype = floating[0] if floating else self._dtype
        for unit in self._units:
            unit.storage.to(device)
            unit.release(self._dtype)


def _replace(module: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put `new` wherever `module` or a module in it has `old`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is old:
                part._parameters[name] = new
