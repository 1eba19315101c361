"""The momentum model in sharded buffers: each rank keeps 1/N of every unit; full units exist only while they compute.

A unit is a transformer block, an embedding or a head. Its parameters are sharded as ZeRO-3 shards the student's, with
`ceil(numel / N)` elements per rank and parameter, and concatenated in one flat storage:

    rank 0: [ w: first part | b: first part | ... ]        all_gather        unit: [ w | b | ... ]
    rank 1: [ w: second part | b: second part | ... ]   ---------------->    alive from the unit's forward pre-hook
                                                                             to its forward hook

While a unit computes, the next one is gathered, so at most two are full. An update averages local parts with local parts
and issues no collective: under ZeRO-3 this rank has the matching part of the student's fp32 master; at stages 0 to 2 every
rank has the student's full parameter (in its compute precision) and takes a slice of it.

The last rank's part may extend beyond the end of the parameter. This padding is never read: in DeepSpeed's own parts it is
uninitialised memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.common import comm
from albef_ds.engine.zero import internals
from albef_ds.engine.zero.momentum_storage import STORAGES, Storage
from albef_ds.engine.zero.momentum_update import UPDATES, Part
from albef_ds.models.momentum import Momentum, momentum_copy, unit_modules


@dataclass(frozen=True)
class Slot:
    """Position of one parameter's local part in its unit's flat storage."""

    name: str
    student: nn.Parameter
    momentum: nn.Parameter
    shape: torch.Size
    start: int
    size: int
    """Elements per rank, ceil(numel / N)."""
    frozen: bool = False
    """True for frozen weights of the student that a module of the momentum model uses: they are not part of its state."""

    def valid(self, rank: int) -> int:
        """Returns the number of elements of the rank's part that are not padding."""
        return max(0, min(self.size, self.shape.numel() - rank * self.size))

    def local_student(self, rank: int) -> Tensor:
        """Returns this rank's part of the student, flat, without padding: the fp32 master under ZeRO-3, else the weights."""
        valid = self.valid(rank)
        if internals.is_partitioned(self.student):
            return internals.local_part(self.student)[:valid]
        return self.student.detach().reshape(-1).narrow(0, min(rank * self.size, self.shape.numel()), valid)


class Unit:
    """One module's parameters: the sharded storage, and the full weights while the module computes."""

    def __init__(self, name: str, slots: list[Slot], borrowed: list[tuple[Unit, Slot]], storage: Storage) -> None:
        self.name = name
        self.slots = slots
        self.borrowed = borrowed
        """Parameters that this module shares with an earlier unit, and that unit, which stores them."""
        self.storage = storage
        self.arriving: list[tuple[Slot, Tensor, int, int, Any]] | None = None

    def start_gather(self) -> None:
        """Starts gathering the other ranks' parts; `finish_gather` waits for them."""
        assert self.arriving is None
        self.arriving = []
        if self.slots:
            gathered, work = _all_gather(self.storage.sent)
            self.arriving += [(slot, gathered, slot.start, slot.size, work) for slot in self.slots]
        for owner, slot in self.borrowed:
            gathered, work = _all_gather(owner.storage.sent.narrow(0, slot.start, slot.size))
            self.arriving.append((slot, gathered, 0, slot.size, work))

    def finish_gather(self, dtype: torch.dtype) -> None:
        """Sets the module's parameters to the full weights, in `dtype`."""
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
        """Frees the full weights."""
        for slot in [*self.slots, *(slot for _, slot in self.borrowed)]:
            slot.momentum.data = torch.empty(0, dtype=dtype, device=self.storage.sent.device)

    def drop_arriving(self) -> None:
        """Discards a prefetched gather."""
        for *_, work in self.arriving or []:
            if work is not None:
                work.wait()
        self.arriving = None


def _all_gather(part: Tensor) -> tuple[Tensor, Any]:
    """Returns (N, S), the `part` (S,) of every rank, and the work to wait for (None: nothing to wait for)."""
    if not comm.is_distributed():
        return part[None], None
    gathered = part.new_empty((comm.world_size(), part.numel()))
    return gathered, comm.all_gather_single(gathered.view(-1), part, async_op=True)


class ShardedMomentum(Momentum):
    """The momentum model described in the module docstring, for every ZeRO stage and for one process.

    Args:
        student: the trained modules, full or partitioned by `zero.Init`. If a process group is used, it is initialised before.
        decay: m of the moving average.
        storage: a key of `STORAGES`.
        update: a key of `UPDATES`.
        dropout: leave the copy in train mode, as the released code does.
    """

    def __init__(
        self,
        student: nn.ModuleDict,
        decay: float,
        *,
        storage: str = "value_residual",
        update: str = "auto",
        dropout: bool = False,
    ) -> None:
        self.student = student
        self.decay = decay
        self.rank, self.world_size = comm.rank(), comm.world_size()
        self.max_whole_units = 0
        """Largest number of units so far that were full or being gathered at the same time."""
        self._modules = momentum_copy(student, dropout=dropout, hollow=True)
        self._dtype = torch.float32
        self._units = self._make_units(storage)
        self._average = UPDATES[update]()
        self._whole: set[str] = set()
        self._trace: list[Unit] = []
        self._next: dict[str, Unit | None] = {}
        self.copy_from_student()

    @property
    def modules(self) -> nn.ModuleDict:
        """The copied modules; their parameters have data only while their unit computes."""
        return self._modules

    @property
    def num_bytes(self) -> int:
        """Bytes on this rank between forward passes."""
        return sum(unit.storage.num_bytes for unit in self._units)

    def largest_unit_bytes(self) -> int:
        """Returns the bytes of the largest full unit, in the forward pass's precision."""
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
                frozen = momentum is student  # frozen parameters are shared with the student
                if frozen and (module in shared or not internals.is_partitioned(student)):
                    continue
                if frozen:  # ZeRO-3 gathers it for the student's modules only: this module needs a copy
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
        """Returns the unit that followed `unit` in the last pass, unless it is being gathered; records the order.

        A new pass begins when the first unit computes again. Nothing is prefetched across that boundary: an update may happen
        there.
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
        """See `Momentum.update`. Local parts only, no collective."""
        parts = []
        for unit in self._units:
            unit.drop_arriving()
            device = unit.storage.sent.device
            parts += [Part(unit.storage, slot.start, slot.local_student(self.rank).to(device)) for slot in unit.slots]
        self._average(parts, self.decay)

    @torch.no_grad()
    def copy_from_student(self) -> None:
        for unit in self._units:
            unit.drop_arriving()
            if unit.slots:
                unit.storage.write(self._local_student(unit))

    def _local_student(self, unit: Unit) -> Tensor:
        """Returns fp32 (S,): the student's local parts of a unit in the layout of its storage; padding is 0."""
        flat = torch.zeros(unit.storage.sent.numel(), device=unit.storage.sent.device)
        for slot in unit.slots:
            part = slot.local_student(self.rank)
            flat.narrow(0, slot.start, part.numel()).copy_(part)
        return flat

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yields name and full fp32 weights, one parameter at a time; all ranks iterate together."""
        for unit in self._units:
            local = unit.storage.read()
            for slot in (slot for slot in unit.slots if not slot.frozen):
                whole = comm.all_gather(local.narrow(0, slot.start, slot.size))
                yield slot.name, whole[: slot.shape.numel()].view(slot.shape)

    def full_state_dict(self) -> dict[str, Tensor]:
        return {name: whole.cpu().clone() for name, whole in self.parameters()}

    @torch.no_grad()
    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Momentum.load_full_state_dict`. Frozen parameters in `state` are ignored: they are the student's."""
        for unit in self._units:
            unit.drop_arriving()
            flat = torch.zeros_like(unit.storage.sent, dtype=torch.float32)
            for slot in unit.slots:
                if slot.frozen:
                    part = slot.local_student(self.rank)
                else:
                    part = state[slot.name].reshape(-1)[self.rank * slot.size :][: slot.valid(self.rank)]
                flat.narrow(0, slot.start, part.numel()).copy_(part)
            unit.storage.write(flat)

    def to(self, device: torch.device) -> None:
        """See `Momentum.to`. Also adopts the precision that an engine has given the student."""
        floating = [p.dtype for p in self.student.parameters() if p.requires_grad]
        self._dtype = floating[0] if floating else self._dtype
        for unit in self._units:
            unit.storage.to(device)
            unit.release(self._dtype)


def _replace(module: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Replaces the parameter `old` by `new` in `module` and the modules inside it."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is old:
                part._parameters[name] = new
