"""Computes the features of a corpus: one task per shard, so that it continues, and array tasks and ranks share it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.common.names import is_file_name
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.shards.format import Manifest, ShardEntry
from albef_ds.data.shards.reader import ShardReader, parse_meta
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.execution.stage_folder import StageFolder, digest_of, open_stage
from data_tools.features.model import ModelChoice, Scorer, load_scorer
from data_tools.features.stored import NAME, Arrays, StoredFeatures, part_name
from data_tools.files.storage import save_bytes
from data_tools.readers.source import caption_list

if TYPE_CHECKING:
    from torch import Tensor

_Sample = tuple[bytes, list[str]]
"""The bytes of an image, and its captions."""
_THREADS = 8
"""Most threads that decode images for one model."""


@dataclass(frozen=True)
class _Task:
    corpus: Path
    number: int
    shard: ShardEntry
    path: Path
    identity: str
    choice: ModelChoice


def embed(
    corpus: Path, choice: ModelChoice, parallel: Parallel, *, name: str = NAME, restart: bool = False
) -> StoredFeatures | None:
    """Writes features and scores of every pair of `corpus` to `corpus/name`; None while other tasks have not done their share.

    Shards that are done with the same weights are left out, also after `append` has added shards.

    Raises UserError if the corpus or the model cannot be used, or the folder has features of another model.
    """
    if not is_file_name(name):
        raise ConfigError(f"name is {name!r}: give that of a folder beside the manifest, without a slash")
    manifest, scorer = Manifest.load(corpus), load_scorer(choice)
    identity = scorer.identity()
    settings = {"model": identity, "precision": choice.dtype or "fp32", "embed_dim": scorer.embed_dim}
    stage = open_stage(corpus, name, settings, is_map=True, restart=restart)
    tasks = [
        _Task(corpus, number, shard, stage.folder / part_name(shard.name), identity, choice)
        for number, shard in enumerate(manifest.shards)
    ]
    if not (stage.done and stage.summary.get("shards") == [shard.checksum for shard in manifest.shards]):
        run_tasks(_embed, tasks, parallel, "embed", size_of=lambda task: task.shard.num_samples, unit="image", is_done=_is_done)
        if not all(map(_is_done, tasks)):
            return None
        _finish(stage, tasks, choice)
    return StoredFeatures(corpus, name)


def share_of(parallel: Parallel) -> Parallel:
    """`parallel`, split further over the ranks of a launcher (RANK and WORLD_SIZE, as torchrun and deepspeed set them)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0")) if world > 1 else 0
    index, count = parallel.task_index * world + rank, parallel.num_tasks * world
    return Parallel(parallel.workers, parallel.address, index, count)


def _is_done(task: _Task) -> bool:
    try:
        with safe_open(task.path, "np") as file:
            return (file.metadata() or {}) == _made_from(task)
    except (OSError, SafetensorError):
        return False


def _made_from(task: _Task) -> dict[str, str]:
    """A file's metadata. It has one field, since safetensors writes several in random order."""
    return {"made_from": f"model {task.identity} shard {task.shard.checksum}"}


def _embed(task: _Task) -> int:
    scorer, reader = load_scorer(task.choice), ShardReader(task.corpus)
    found: dict[str, list[NDArray[Any]]] = {"images": [], "texts": [], "itc": [], "itm": [], "captions": []}
    threads = min(_THREADS, len(os.sched_getaffinity(0)))
    with closing(reader), ThreadPoolExecutor(threads) as pool:
        samples = (_sample(reader, task, row) for row in range(task.shard.num_samples))
        for chunk, pixels in _decoded(_chunks(samples, task.choice.batch_size), scorer, pool):
            captions = [texts for _, texts in chunk]
            result = scorer.score(pixels, captions)
            found["images"].append(result.images.numpy().astype(np.float16))
            found["texts"].append(result.texts.numpy().astype(np.float16))
            found["itc"].append(result.itc.numpy())
            found["itm"].append(result.itm.numpy())
            found["captions"].append(np.array([len(texts) for texts in captions], np.int32))
    width = scorer.embed_dim
    empty: Arrays = {
        **{name: np.zeros((0, width), np.float16) for name in ("images", "texts")},
        **{name: np.zeros(0, np.float32) for name in ("itc", "itm")},
        "captions": np.zeros(0, np.int32),
    }
    arrays = {name: np.concatenate([empty[name], *parts]) for name, parts in found.items()}
    save_bytes(task.path, save(arrays, _made_from(task)))
    return task.shard.num_samples


def _decoded(
    chunks: Iterator[Sequence[_Sample]], scorer: Scorer, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[_Sample], list[Tensor | None]]]:
    """Yields each chunk with its decoded images, while the threads of `pool` decode the next one."""
    waiting: deque[tuple[Sequence[_Sample], Iterator[Tensor | None]]] = deque()
    for chunk in chunks:
        waiting.append((chunk, pool.map(scorer.pixels, [image for image, _ in chunk])))
        if len(waiting) > 1:
            done, pixels = waiting.popleft()
            yield done, list(pixels)
    for done, pixels in waiting:
        yield done, list(pixels)


def _sample(reader: ShardReader, task: _Task, row: int) -> _Sample:
    try:
        image, meta = reader.read(task.number, row)
        return image, caption_list(parse_meta(meta)["captions"])
    except (BrokenSampleError, ValueError, LookupError) as error:
        path = task.corpus / task.shard.name
        raise DataError(f"{path} is damaged at its sample {row} ({error}): run `albef-data verify {task.corpus}`") from None


def _chunks(samples: Iterator[_Sample], size: int) -> Iterator[Sequence[_Sample]]:
    while chunk := list(islice(samples, size)):
        yield chunk


def _finish(stage: StageFolder, tasks: list[_Task], choice: ModelChoice) -> None:
    counts = {"num_captions": 0, "pictures_not_read": 0, "captions_not_read": 0}
    width = 0
    for task in tasks:
        with safe_open(task.path, "np") as file:
            images, texts = file.get_tensor("images"), file.get_tensor("texts")
        width = images.shape[1]
        counts["num_captions"] += len(texts)
        counts["pictures_not_read"] += int((~images.any(axis=1)).sum())
        counts["captions_not_read"] += int((~texts.any(axis=1)).sum())
    shards = [task.shard.checksum for task in tasks]
    facts = {"shards": shards, "embed_dim": width, "digest": digest_of({"model": tasks[0].identity, "shards": shards})}
    stage.finish({**counts, **facts, "model": asdict(choice)})
