"""The training stream over tars without a manifest (third-party or remote) through the `webdataset` library.

Its guarantees are weaker than those of `albef_ds.data.stream.corpus`: the order comes from a shuffle buffer over shards in random
order and depends on the number of ranks and workers, an epoch has no known length, and a resumed run draws new samples instead of
continuing the sequence. Every rank has endless micro-batches, so all take the same number of steps and none waits at an epoch's
end. Shards are split over ranks and workers if there are enough, else every worker reads all of them in its own order.

A sample is an image (`.jpg`, `.jpeg`, `.png`, `.webp`) with a `.json` that has `caption` or `captions`, or a `.txt` with one
caption. Its members are consecutive in the tar and share their name up to the last dot, or up to the first if the rest is a
compound ending (`albef_ds.data.shards.sample_keys`). A tar that is damaged ends the run; one that lacks its end mark is counted.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import random
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import braceexpand
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.filters import shuffle

from albef_ds.common.errors import ConfigError, DataError, UserError
from albef_ds.config.schema import RunConfig
from albef_ds.data import randomness
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.broken import BrokenSample, BrokenSampleError
from albef_ds.data.images.view import RawImages
from albef_ds.data.shards.format import IMAGE_EXTENSIONS
from albef_ds.data.shards.sample_keys import GroupFacts, join_compound_endings
from albef_ds.data.shards.strict_tar import TarFaultError, open_tar
from albef_ds.data.stream.loader import Delivery, LoaderStream, Share
from albef_ds.data.stream.samples import Example, SampleBuilder, collate, stable_id

SHUFFLE_BUFFER = 1000
"""Undecoded samples per worker from which the next one is drawn."""
_TIMEOUT = 60  # seconds without a byte from a server


def expand_shards(pattern: str) -> list[str]:
    """Returns the tars that `pattern` names: a path or an http(s) URL, braces expanded (`00{000..127}.tar`).

    Raises:
        UserError: it is a shell command or another kind of URL, or a local file does not exist.
    """
    if pattern.startswith("pipe:") or "::pipe:" in pattern:
        raise ConfigError("data.shards asks for a shell command (pipe:), which is refused: give files or http(s) URLs")
    urls = list(braceexpand.braceexpand(pattern))
    others = [url for url in urls if "://" in url and not url.startswith(("http://", "https://"))]
    if others:
        raise ConfigError(f"data.shards {others[0]} is not a supported URL: give files or http(s) URLs")
    missing = [url for url in urls if "://" not in url and not Path(url).is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(urls)} tars in data.shards do not exist, such as {missing[0]}: check the path")
    return urls


class WebDatasetStream(LoaderStream[ImageTextBatch[RawImages]]):
    """Endless micro-batches from the plain tars of `data.shards`.

    Raises:
        UserError: as `expand_shards` and `LoaderStream`; while iterating, the tars hold no sample.
    """

    def __init__(self, config: RunConfig, share: Share) -> None:
        super().__init__(_PlainTars(config, share), config, share)

    @property
    def num_samples(self) -> None:
        """Unknown: a run over plain tars needs train.max_steps or train.max_minutes."""
        return None


class _PlainTars(IterableDataset[Delivery]):
    def __init__(self, config: RunConfig, share: Share) -> None:
        self._urls = expand_shards(config.data.shards)
        self._builder = SampleBuilder(config.training_data, config.model.vision.image_size, config.train.seed)
        self._micro_batch_size, self._seed, self._share = config.train.micro_batch_size, config.train.seed, share

    def __iter__(self) -> Iterator[Delivery]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        share, start = self._share, self._share.start_position
        reader, readers = share.rank * num_workers + worker, share.world_size * num_workers
        # Positions are unique over all readers and continue from the run's samples so far.
        positions = itertools.count(start + reader, readers)
        generator = randomness.generator(self._seed, start, reader)
        urls = self._urls[reader::readers] if len(self._urls) >= readers else self._urls
        try:
            samples = shuffle(SHUFFLE_BUFFER, rng=generator)(_read_forever(urls, generator))
            while True:
                yield self._batch(samples, positions)
        except UserError as error:
            yield Delivery(None, failure=str(error))

    def _batch(self, samples: Iterator[dict[str, Any]], positions: Iterator[int]) -> Delivery:
        examples: list[Example] = []
        broken: list[BrokenSample] = []
        cut_before = self._builder.tokenizer.num_cut
        while len(examples) < self._micro_batch_size:
            sample = next(samples)
            try:
                image, captions, image_id = _parts(sample)
                examples.append(self._builder.build(image, captions, image_id, sample["__key__"], next(positions)))
            except BrokenSampleError as error:
                broken.append(BrokenSample(sample["__url__"], sample["__key__"], error.reason))
                if len(broken) >= 100 + self._micro_batch_size:
                    raise DataError(
                        f"{len(broken)} samples of one batch are broken, such as {sample['__key__']} in {sample['__url__']} "
                        f"({error}): check that data.shards holds images with captions"
                    ) from None
        return Delivery(collate(examples), broken, num_cut=self._builder.tokenizer.num_cut - cut_before)


def _read_forever(urls: list[str], generator: random.Random) -> Iterator[dict[str, Any]]:
    """Yields the samples of all `urls` endlessly, shards in a new random order in every pass."""
    while True:
        order = urls.copy()
        generator.shuffle(order)
        num_samples = 0
        for url in order:
            for sample in _read_tar(url):
                num_samples += 1
                yield sample
        if num_samples == 0:
            raise DataError(f"no sample in {len(urls)} tars of data.shards, such as {urls[0]}: check their contents")


def _read_tar(url: str) -> Iterator[dict[str, Any]]:
    without_end: list[TarFaultError] = []
    try:
        with _open(url) as stream, open_tar(stream, stream="://" in url, compressed=True) as tar:
            yield from join_compound_endings(_groups(_members(tar, without_end, remote="://" in url), url), _facts, _joined)
    except (GeneratorExit, UserError):
        raise
    except TarFaultError as fault:
        raise DataError(f"tar {url} is damaged ({fault}): copy it again") from None
    except Exception as error:  # tarfile raises what its parsing, the network or a decompression does
        raise DataError(f"tar {url} cannot be read ({type(error).__name__}: {error.args[:1]}): copy it again") from None
    if without_end:
        # Every member was whole, so the run goes on, and its counts say that some may be missing.
        yield {"__key__": "(end)", "__url__": url, "__fault__": "tar without its end mark"}


def _members(tar: tarfile.TarFile, without_end: list[TarFaultError], *, remote: bool) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents. A link stands for the file that it names; in a stream that cannot be read, so it is empty."""
    infos = iter(tar)
    while True:
        try:
            info = next(infos, None)
        except TarFaultError as fault:
            if not fault.at_end:
                raise
            without_end.append(fault)
            return
        if info is None:
            return
        is_link = info.islnk() or info.issym()
        if posixpath.basename(info.name).startswith("._") or not (info.isreg() or is_link):
            continue
        try:
            file = None if is_link and remote else tar.extractfile(info)
        except KeyError:  # the link's file is not in the tar
            file = None
        yield info.name, file.read() if file is not None else b""
        if remote:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every member


def _groups(members: Iterator[tuple[str, bytes]], url: str) -> Iterator[dict[str, Any]]:
    sample: dict[str, Any] = {}
    for name, content in members:
        key, extension = _key_and_extension(name)
        if key is None:
            continue
        if key != sample.get("__key__") or extension in sample:
            if sample:
                yield sample
            sample = {"__key__": key, "__url__": url}
        sample[extension] = content
    if sample:
        yield sample


def _facts(sample: dict[str, Any]) -> GroupFacts:
    has_image = any(extension in sample for extension in IMAGE_EXTENSIONS)
    return GroupFacts(sample["__key__"], has_image, "txt" in sample or "json" in sample)


def _joined(key: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for sample in samples for name, value in sample.items()} | {"__key__": key}


def _open(url: str) -> BinaryIO:
    if "://" not in url:
        return open(url, "rb")
    # The library would pass the URL to a shell.
    stream: BinaryIO = urllib.request.urlopen(url, timeout=_TIMEOUT)
    return stream


def _key_and_extension(name: str) -> tuple[str | None, str]:
    """Returns the name up to its last dot, and the rest in lower case, since keys may contain dots."""
    key, dot, extension = name.rpartition(".")
    return (key, extension.lower()) if dot and "/" not in extension else (None, "")


def _parts(sample: dict[str, Any]) -> tuple[bytes, list[str], str]:
    """Returns image bytes, captions and image id (a hash of the bytes if the JSON has none)."""
    if "__fault__" in sample:
        raise BrokenSampleError(sample["__fault__"], sample["__url__"])
    image = next((sample[extension] for extension in IMAGE_EXTENSIONS if extension in sample), None)
    if image is None:
        raise BrokenSampleError("undecodable picture", f"no member in {', '.join(IMAGE_EXTENSIONS)}")
    captions: list[str] = []
    image_id = ""
    if "json" in sample:
        captions, image_id = _read_json(sample["json"])
    if not captions and "txt" in sample:
        captions = [sample["txt"].decode("utf-8", "replace")]
    return image, captions, image_id or f"{stable_id(image):x}"


def _read_json(raw: bytes) -> tuple[list[str], str]:
    try:
        meta = json.loads(raw)
    except ValueError as error:
        raise BrokenSampleError("unreadable JSON", str(error)) from None
    if not isinstance(meta, dict):
        raise BrokenSampleError("unreadable JSON", "not an object")
    captions = meta.get("captions", meta.get("caption", []))
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise BrokenSampleError("unreadable JSON", "caption is neither text nor a list of text")
    return captions, str(meta.get("image_id", ""))
