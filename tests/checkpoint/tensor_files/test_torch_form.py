"""State dicts in torch's zip form: what torch and we write, read by torch and by us."""

from __future__ import annotations

import weakref
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, equal
from albef_ds.checkpoint.tensor_files.safetensors_form import write_safetensors
from albef_ds.checkpoint.tensor_files.torch_form import open_torch_file, write_torch_file

TIED = torch.randn(5, 3)
TENSORS: dict[str, Tensor] = {
    "weight": torch.randn(4, 7),
    "half": torch.randn(3).half(),
    "brain": torch.randn(2, 2).bfloat16(),
    "scalar": torch.tensor(0.07),
    "empty": torch.empty(0, 4),
    "ids": torch.arange(6).expand(1, -1),
    "flags": torch.tensor([True, False]),
    "tied": TIED,
    "tied.again": TIED,
}


def written(path: Path, *, under: str | None = "model") -> Path:
    lazy = {id(tensor): LazyTensor.of(tensor) for tensor in TENSORS.values()}
    write_torch_file(path, {name: lazy[id(tensor)] for name, tensor in TENSORS.items()}, under=under)
    return path


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("under", ["model", None])
def test_torch_reads_what_is_written_without_running_code(tmp_path: Path, under: str | None, mmap: bool) -> None:
    loaded = torch.load(written(tmp_path / "a.pth", under=under), weights_only=True, mmap=mmap)
    tensors = loaded[under] if under else loaded
    assert list(tensors) == list(TENSORS)
    assert all(equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert tensors["tied"].data_ptr() == tensors["tied.again"].data_ptr()


def test_the_file_is_a_sound_zip_whose_storages_lie_aligned_and_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pth")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # checksums of all members
        assert sum("/data/" in name for name in archive.namelist()) == len(TENSORS) - 1
    mapped = torch.load(path, weights_only=True, mmap=True)["model"]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values() if tensor.numel())


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "a.pth").read_bytes() == written(tmp_path / "b.pth").read_bytes()


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_one_tensor_is_held_at_a_time(tmp_path: Path, form: str) -> None:
    given: list[weakref.ref[Tensor]] = []

    def read() -> Tensor:
        assert all(tensor() is None for tensor in given), "another tensor is still held"
        tensor = torch.zeros(8)
        given.append(weakref.ref(tensor))
        return tensor

    entries = {f"t{number}": LazyTensor((8,), torch.float32, read) for number in range(3)}
    if form == "torch":
        write_torch_file(tmp_path / "a", entries, under=None)
    else:
        write_safetensors(tmp_path / "a", entries)
    assert len(given) == 3


@pytest.mark.parametrize("beside", [{}, {"optimizer": {"state": [torch.randn(9)]}, "epoch": 3}])
def test_torchs_own_files_are_read_by_position_and_not_through_a_map(tmp_path: Path, beside: dict[str, object]) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": TENSORS, **beside}, path)
    stored = open_torch_file(path)
    assert stored.beside.keys() == beside.keys()
    assert all(equal(stored.tensors[name].read(), tensor) for name, tensor in TENSORS.items())
    with open(path, "r+b") as file:  # what is read from now on comes from the file
        content = file.read()
        place = content.index(TENSORS["weight"].numpy().tobytes())
        file.seek(place)
        file.write(b"\0" * 4)
    assert stored.tensors["weight"].read()[0, 0] == 0


def test_views_of_a_larger_storage_are_read_right(tmp_path: Path) -> None:
    whole = torch.randn(10, 4)
    tensors = {"rows": whole[3:5], "columns": whole[:, 1], "turned": torch.randn(3, 5).T}
    torch.save(tensors, tmp_path / "a.pth")
    stored = open_torch_file(tmp_path / "a.pth")
    assert all(equal(stored.tensors[name].read(), tensor) for name, tensor in tensors.items())
