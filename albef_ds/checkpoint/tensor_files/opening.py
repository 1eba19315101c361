"""A file of weights of any form by its name, or a set of safetensors shards by its index."""

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


def open_tensors(path: Path) -> StoredTensors:
    """The tensors in a .safetensors file, its index of shards, or a .pth / .pt / .bin file. Never unpickles code.

    Raises:
        WeightsError: missing, damaged, of another type, with code in it, or not a dict of tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: give the path of a file of weights")
    if path.name.endswith(INDEX_SUFFIX):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return open_torch_file(path)
    raise WeightsError(f"{path} is not one of .safetensors, {', '.join(PICKLE_SUFFIXES)}: give a file of weights")


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
        raise WeightsError(
            f"{index} and its shards differ in {len(different)} tensors, first {different[0]}: write the model again"
        )
    return StoredTensors({name: parts[shard][name] for name, shard in places.items()}, metadata)


def shards_of(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[dict[str, LazyTensor]]:
    """`tensors` in order, cut into groups of at most `max_bytes` (0: one group); a larger tensor is a group of its own."""
    groups: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, entry in tensors.items():
        if max_bytes and groups[-1] and size + entry.nbytes > max_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = entry
        size += entry.nbytes
    return groups
