"""State dicts in torch's zip form: what torch and we write, read by torch and by us."""

from __future__ import annotations

import weakref
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, equal
from albef_ds.checkpoint.tensor_files.safetensors_form import open_safetensors, write_safetensors
from albef_ds.checkpoint.tensor_files.torch_form import open_torch_file, write_torch_file
from albef_ds.common.errors import WeightsError

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
    with pytest.raises(WeightsError, match="another checksum"):
        stored.tensors["weight"].read()


def test_views_of_a_larger_storage_are_read_right(tmp_path: Path) -> None:
    whole = torch.randn(10, 4)
    tensors = {"rows": whole[3:5], "columns": whole[:, 1], "turned": torch.randn(3, 5).T}
    torch.save(tensors, tmp_path / "a.pth")
    stored = open_torch_file(tmp_path / "a.pth")
    assert all(equal(stored.tensors[name].read(), tensor) for name, tensor in tensors.items())


def _flip(path: Path, content: bytes, byte: int = 0) -> None:
    """Flips a bit of the first place that holds `content`."""
    data = bytearray(path.read_bytes())
    data[data.index(content) + byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("writer", ["torch", "ours"])
def test_a_flipped_bit_of_a_tensor_is_refused_when_it_is_read(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "a.pth"
    if writer == "ours":
        written(path)
    else:
        torch.save({"model": TENSORS}, path)
    _flip(path, TENSORS["weight"].numpy().tobytes())
    stored = open_torch_file(path)
    assert equal(stored.tensors["ids"].read(), TENSORS["ids"])
    with pytest.raises(WeightsError, match=r"a\.pth is damaged \(.*data/0 has another checksum.*: fetch or write it again"):
        stored.tensors["weight"].read()


def test_a_flipped_bit_of_the_description_or_of_a_view_is_refused_at_once(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.pth", torch.randn(10, 4)
    torch.save({"rows": whole[3:5], "weight": torch.ones(3)}, path)
    for content in (b"weight", whole.numpy().tobytes()):
        copy = path.with_name("copy.pth")
        copy.write_bytes(path.read_bytes())
        _flip(copy, content, 2)
        with pytest.raises(WeightsError, match=r"copy\.pth is damaged"):
            open_torch_file(copy)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert all(equal(tensor.read(), TENSORS[name]) for name, tensor in open_torch_file(path).tensors.items())


@pytest.mark.parametrize("part", ["weight", "shape", "metadata", "checksums"])
def test_a_flipped_bit_of_a_safetensors_file_with_checksums_is_refused(tmp_path: Path, part: str) -> None:
    path = tmp_path / "a.safetensors"
    lazy = {name: LazyTensor.of(tensor) for name, tensor in TENSORS.items()}
    write_safetensors(path, lazy, {"heads": "12"}, checksums=True)
    stored = open_safetensors(path)
    assert all(equal(tensor.read(), TENSORS[name]) for name, tensor in stored.tensors.items())
    content = {
        "weight": TENSORS["weight"].numpy().tobytes(),
        "shape": b"[4,7]",
        "metadata": b'"12"',
        "checksums": b'xxh3_64_header":"',
    }
    _flip(path, content[part], {"shape": 1, "metadata": 2, "checksums": 17}.get(part, 0))
    with pytest.raises(WeightsError):
        open_safetensors(path).tensors["weight"].read()


def test_a_safetensors_file_without_checksums_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"weight": LazyTensor.of(TENSORS["weight"])}, {"xxh3": "unrelated"})
    assert equal(open_safetensors(path).tensors["weight"].read(), TENSORS["weight"])
