"""Opens a file of weights in any format by its name, or a set of safetensors shards by its index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, StoredTensors
from albef_ds.checkpoint.tensor_files.safetensors_form import open_safetensors
from albef_ds.checkpoint.tensor_files.torch_form import open_torch_file
from albef_ds.common.errors import WeightsError
from albef_ds.config.files import read_json_object

PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
INDEX_SUFFIX = ".safetensors.index.json"
FOLDER_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of weight files in a folder; the first existing one is used."""


def open_tensors(path: Path) -> StoredTensors:
    """The tensors in a .safetensors file, its index of shards, a .pth / .pt / .bin file, or a folder with one of `FOLDER_NAMES`.

    No code in the file is run, and tensors are read lazily. Raises WeightsError if the file is missing, damaged, of another
    type, contains code or is not a dict of tensors.
    """
    if path.is_dir():
        file = next((path / name for name in FOLDER_NAMES if (path / name).is_file()), None)
        if file is None:
            raise WeightsError(f"{path} holds neither {' nor '.join(FOLDER_NAMES)}: give the folder or file of the weights")
        return open_tensors(file)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: download the weights and give the path of their file or folder")
    if path.name.endswith(INDEX_SUFFIX):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return open_torch_file(path)
    raise WeightsError(f"{path} is not one of .safetensors, {', '.join(PICKLE_SUFFIXES)}: convert it to one of these")


def _open_shards(index: Path) -> StoredTensors:
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{index} has no weight_map: write the model again")
    parts, metadata = {}, {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise WeightsError(f"{index} points outside its folder ({name}): write the model again")
        part = open_tensors(index.parent / name)
        parts[name] = part.tensors
        metadata.update(part.metadata)
    held = {name for part in parts.values() for name in part}
    if different := sorted(held ^ places.keys()):
        count, first = len(different), different[0]
        raise WeightsError(f"{index} and its shards differ in {count} tensors, first {first}: write the model again")
    return StoredTensors({name: parts[shard][name] for name, shard in places.items()}, metadata)


def shards_of(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[dict[str, LazyTensor]]:
    """`tensors` in order, split into groups of at most `max_bytes` (0: one group); a larger tensor forms its own group."""
    groups: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, entry in tensors.items():
        if max_bytes and groups[-1] and size + entry.nbytes > max_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = entry
        size += entry.nbytes
    return groups
