"""The momentum model in sharded buffers: each rank keeps 1/N of every unit; full units exist only while they compute.

A unit is a transformer block, an embedding or a head. It is spread over the N ranks of a group (`momentum_groups.py`), and every
group holds all of it. Its parameters are sharded as ZeRO-3 shards the student's, with `ceil(numel / N)` elements per rank and
parameter, and concatenated in one flat storage:

    rank 0: [ w: first part | b: first part | ... ]        all_gather        unit: [ w | b | ... ]
    rank 1: [ w: second part | b: second part | ... ]   ---------------->    alive from the unit's forward pre-hook
                                                                             to its forward hook

While units compute, the next ones are gathered (`momentum_gather.py`). An update averages local parts with local parts. At
stages 0 to 2 every rank has the student's full parameter (in its compute precision) and takes a slice of it, without a
collective. Under ZeRO-3 this rank has 1/world of the student's fp32 master, so storage and update are of that part. With several
groups each rank then receives, in one message after each update, the values that its group needs from the ranks with its index
in the other groups: every group has a copy of the same storage.

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
from albef_ds.engine.zero.momentum_gather import Gatherer, Piece
from albef_ds.engine.zero.momentum_groups import MomentumGroup
from albef_ds.engine.zero.momentum_replicas import Replica, check_equal
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


@dataclass
class Unit:
    """One module's parameters and their sharded storage."""

    name: str
    slots: list[Slot]
    borrowed: list[tuple[Unit, Slot]]
    """Parameters that this module shares with an earlier unit, and that unit, which stores them."""
    storage: Storage
    start: int
    """Place of its storage among those of all units."""

    def all_slots(self) -> list[Slot]:
        """Returns the module's parameters, in the order in which they are gathered."""
        return [*self.slots, *(slot for _, slot in self.borrowed)]

    @property
    def elements(self) -> int:
        """Elements of the full unit."""
        return sum(slot.shape.numel() for slot in self.all_slots())

    def release(self, dtype: torch.dtype) -> None:
        """Frees the full weights."""
        for slot in self.all_slots():
            slot.momentum.data = torch.empty(0, dtype=dtype, device=self.storage.sent.device)


class ShardedMomentum(Momentum):
    """The momentum model described in the module docstring, for every ZeRO stage and for one process.

    Args:
        student: the trained modules, full or partitioned by `zero.Init`. If a process group is used, it is initialised before.
        decay: m of the moving average.
        storage: a key of `STORAGES`.
        update: a key of `UPDATES`.
        dropout: leave the copy in train mode, as the released code does.
        group: the ranks that a unit is spread over; None: all ranks.
        bucket_size: largest number of elements of a message with several units.
    """

    def __init__(
        self,
        student: nn.ModuleDict,
        decay: float,
        *,
        storage: str = "value_residual",
        update: str = "auto",
        dropout: bool = False,
        group: MomentumGroup | None = None,
        bucket_size: int = 25_000_000,
    ) -> None:
        self.student = student
        self.decay = decay
        self.group = group or MomentumGroup.of([range(comm.world_size())], comm.rank())
        partitioned = any(map(internals.is_partitioned, student.parameters()))
        spread = partitioned and self.group.count > 1
        self._parts, self._part = (comm.world_size(), comm.rank()) if spread else (self.group.size, self.group.index)
        """Into how many parts a parameter is cut, and which one this rank averages."""
        self._modules = momentum_copy(student, dropout=dropout, hollow=True)
        self._dtype = torch.float32
        self._units = self._make_units(storage)
        self._replica = Replica([unit.storage for unit in self._units], self.group) if spread and self._units else None
        self._order = torch.tensor(self.group.holders()).T
        self._gatherer = Gatherer(self.group, self._pieces, {unit.name: unit.elements for unit in self._units}, bucket_size)
        self._named = {unit.name: unit for unit in self._units}
        self._average = UPDATES[update]()
        self.copy_from_student()

    @property
    def modules(self) -> nn.ModuleDict:
        """The copied modules; their parameters have data only while their unit computes."""
        return self._modules

    @property
    def num_bytes(self) -> int:
        """Bytes on this rank between forward passes."""
        replica = self._replica.num_bytes if self._replica is not None else 0
        return replica + sum(unit.storage.num_bytes for unit in self._units)

    @property
    def max_gathered_elements(self) -> int:
        """Largest number of elements so far that messages held on this rank at one time."""
        return self._gatherer.max_elements

    def largest_unit_bytes(self) -> int:
        """Returns the bytes of the largest full unit, in the forward pass's precision."""
        itemsize = self._dtype.itemsize
        return max(unit.elements for unit in self._units) * itemsize

    def _make_units(self, storage: str) -> list[Unit]:
        students = dict(self.student.named_parameters(remove_duplicate=False))
        owners: dict[int, tuple[Unit, Slot]] = {}
        shared = set(self.student.modules())
        hollow: dict[int, nn.Parameter] = {}
        units: list[Unit] = []
        total = 0
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
                size = -(-shape.numel() // self._parts)
                slots.append(Slot(name, student, momentum, shape, start, size, frozen))
                start += size
            if not slots and not borrowed:
                continue
            unit = Unit(prefix, slots, borrowed, STORAGES[storage](start), total)
            total += start
            owners |= {id(slot.momentum): (unit, slot) for slot in slots}
            units.append(unit)
            module.register_forward_pre_hook(self._before(unit))
            module.register_forward_hook(self._after(unit))
        return units

    def _before(self, unit: Unit) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            assert not torch.is_grad_enabled(), "the momentum model computes without gradients"
            pieces = self._gatherer.fetch(unit.name)
            if unit.slots:
                whole = pieces.pop(0)
                for slot in unit.slots:
                    self._set(slot, whole, slot.start)
            for (_, slot), piece in zip(unit.borrowed, pieces, strict=True):
                self._set(slot, piece, 0)

        return hook

    def _set(self, slot: Slot, gathered: Tensor, start: int) -> None:
        """Sets a parameter from the parts of its unit (ranks of the group, parts per rank x S), in which it begins at `start`."""
        parts = gathered.view(len(gathered), self._parts // self.group.size, -1)[:, :, start : start + slot.size]
        if self._replica is not None:
            held_by, place = self._order
            parts = parts[held_by, place]
        whole = parts.reshape(-1)[: slot.shape.numel()]
        slot.momentum.data = whole.view(slot.shape).to(self._dtype)

    def _after(self, unit: Unit) -> Any:
        def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
            unit.release(self._dtype)

        return hook

    def _pieces(self, name: str) -> list[Piece]:
        """Returns what this rank sends for a unit: its own parameters together, and each borrowed one."""
        unit = self._named[name]
        pieces = [Piece(name, self._held(unit, 0, unit.storage.sent.numel()))] if unit.slots else []
        return pieces + [Piece(name, self._held(owner, slot.start, slot.size)) for owner, slot in unit.borrowed]

    def _held(self, unit: Unit, start: int, size: int) -> Tensor:
        """Returns a range of a unit's storage, flat; of its group's copy, that of every part."""
        if self._replica is None:
            return unit.storage.sent.narrow(0, start, size)
        return self._replica.values().narrow(1, unit.start + start, size).reshape(-1)

    @torch.no_grad()
    def update(self) -> None:
        """See `Momentum.update`. Local parts only, no collective; between groups under ZeRO-3 one message follows."""
        self._gatherer.drop()
        parts = []
        for unit in self._units:
            device = unit.storage.sent.device
            parts += [Part(unit.storage, slot.start, slot.local_student(self._part).to(device)) for slot in unit.slots]
        if self._replica is not None:
            self._replica.wait()
        self._average(parts, self.decay)
        if self._replica is not None:
            self._replica.send()

    def _overwritten(self) -> None:
        """Discards everything that other ranks have sent."""
        self._gatherer.drop()
        if self._replica is not None:
            self._replica.discard()

    @torch.no_grad()
    def copy_from_student(self) -> None:
        self._overwritten()
        for unit in self._units:
            if unit.slots:
                unit.storage.write(self._local_student(unit))

    def _local_student(self, unit: Unit) -> Tensor:
        """Returns fp32 (S,): the student's local parts of a unit in the layout of its storage; padding is 0."""
        flat = torch.zeros(unit.storage.sent.numel(), device=unit.storage.sent.device)
        for slot in unit.slots:
            part = slot.local_student(self._part)
            flat.narrow(0, slot.start, part.numel()).copy_(part)
        return flat

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yields name and full fp32 weights, one parameter at a time; all ranks iterate together.

        Raises `MachineError` if groups hold different weights.
        """
        spread = self._replica is not None
        if self.group.count > 1 and not spread:
            check_equal([unit.storage for unit in self._units], self.group)
        for unit in self._units:
            local = unit.storage.read()
            for slot in (slot for slot in unit.slots if not slot.frozen):
                part = local.narrow(0, slot.start, slot.size)
                whole = part if self._parts == 1 else comm.all_gather(part, None if spread else self.group.inside)
                yield slot.name, whole[: slot.shape.numel()].view(slot.shape)

    def full_state_dict(self) -> dict[str, Tensor]:
        return {name: whole.cpu().clone() for name, whole in self.parameters()}

    @torch.no_grad()
    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Momentum.load_full_state_dict`. Frozen parameters in `state` are ignored: they are the student's."""
        self._overwritten()
        for unit in self._units:
            flat = torch.zeros_like(unit.storage.sent, dtype=torch.float32)
            for slot in unit.slots:
                if slot.frozen:
                    part = slot.local_student(self._part)
                else:
                    part = state[slot.name].reshape(-1)[self._part * slot.size :][: slot.valid(self._part)]
                flat.narrow(0, slot.start, part.numel()).copy_(part)
            unit.storage.write(flat)

    def to(self, device: torch.device) -> None:
        """See `Momentum.to`. Also adopts the precision that an engine has given the student."""
        floating = [p.dtype for p in self.student.parameters() if p.requires_grad]
        self._dtype = floating[0] if floating else self._dtype
        self._order = self._order.to(device)
        self._overwritten()
        for unit in self._units:
            unit.storage.to(device)
            unit.release(self._dtype)


def _replace(module: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Replaces the parameter `old` by `new` in `module` and the modules inside it."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is old:
                part._parameters[name] = new
