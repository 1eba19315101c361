"""Opens the stream configured in `config.data`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from albef_ds.common.errors import ConfigError
from albef_ds.common.urls import is_corpus_url
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import RawBatch
from albef_ds.data.sample_kinds import SampleKind
from albef_ds.data.stream.annotated import annotated_stream
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.mixed_order import Section
from albef_ds.data.stream.ordered import Stream


def open_stream(
    config: RunConfig,
    samples: SampleKind,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_position: int = 0,
    pin_memory: bool = False,
    sections: Sequence[Section] = (),
) -> Stream[RawBatch]:
    """Returns the stream of `samples` from annotation files, a corpus, a mixture, or tars with weaker guarantees.

    `sections` are those of the run's mixture so far.

    Raises:
        ConfigError: no data is named, it does not exist or does not fit the task, or as `OrderedStream` and `WebDatasetStream`.
    """
    share = Share(rank, world_size, start_position, pin_memory)
    shards = config.data.shards
    if config.data.group_order and (config.data.annotations or (shards and not is_corpus(shards))):
        given = "annotation files" if config.data.annotations else "tars"
        raise ConfigError(f"data.group_order={config.data.group_order} is an order of a corpus, not of {given}: leave it out")
    if config.data.annotations:
        return annotated_stream(config, samples, share)
    if not samples.in_corpora:
        raise ConfigError(f"data.annotations is empty: task.kind={config.task.kind} is trained on annotation files, name them")
    if config.data.mixture:
        return ImageTextStream(config, share, sections)
    if not shards:
        raise ConfigError("data.shards is empty: give a folder written by `albef-data shard`, or tars")
    if is_corpus(shards):
        return ImageTextStream(config, share)
    from albef_ds.data.stream.webdataset import WebDatasetStream  # start-up time: plain tars alone need the library

    return WebDatasetStream(config, share)


def is_corpus(shards: str) -> bool:
    """Returns whether `shards` names a corpus, not tars. A name that looks like neither counts as a missing folder."""
    return is_corpus_url(shards) or Path(shards).is_dir() or not any(mark in shards for mark in (".tar", "{", ":"))
