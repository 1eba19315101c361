"""CPU time that the checksums of model files cost, for the base-size student.

    python -m benchmarks.checksums --work FOLDER --out benchmarks/checksums

Each row writes or reads 840 MB of fp32 weights with and without checksums, alternately, from the page cache.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from albef_ds.checkpoint.formats.whole_model import shapes_of
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.checkpoint.tensor_files.opening import open_tensors
from albef_ds.checkpoint.tensor_files.safetensors_form import write_safetensors
from albef_ds.checkpoint.tensor_files.torch_form import write_torch_file
from albef_ds.config.schema import RunConfig
from benchmarks.record import record_parser, write_record

REPETITIONS = 3


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _read(path: Path) -> None:
    for tensor in open_tensors(path).tensors.values():
        tensor.read()


def _without_crc(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(tensors), path)
    finally:
        torch.serialization.set_crc32_options(before)
    return path


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    options = parser.parse_args()
    folder = options.work / "checksums"
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes_of(RunConfig()).student.items()}
    lazy = {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}
    checked, plain, released = folder / "checked.safetensors", folder / "plain.safetensors", folder / "with.pth"
    write_torch_file(released, lazy, under=None)
    bare = _without_crc(folder / "without.pth", tensors)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "write safetensors (xxh3)": (
            lambda: write_safetensors(checked, lazy, {}, checksums=True),
            lambda: write_safetensors(plain, lazy, {}),
        ),
        "read safetensors (xxh3)": (lambda: _read(checked), lambda: _read(plain)),
        "read .pth (CRC-32)": (lambda: _read(released), lambda: _read(bare)),
    }
    rows = []
    for name, (with_sums, without) in pairs.items():
        times = [(_cpu_seconds(with_sums), _cpu_seconds(without)) for _ in range(REPETITIONS)]
        first, second = (min(column) for column in zip(*times, strict=True))
        rows.append(
            {"what": name, "CPU s with": f"{first:.2f}", "CPU s without": f"{second:.2f}", "more": f"{first - second:.2f}"}
        )
    size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    notes = [
        f"The student of the paper's model, {size:.0f} MB in fp32; one thread; least of {REPETITIONS} alternate repetitions."
    ]
    write_record(
        options.out, "Checksums of model files", notes, rows, ["torch", "safetensors", "xxhash"], {"megabytes": round(size)}
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
