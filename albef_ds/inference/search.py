"""Searches images: ITC over all features, which are kept in an index, then ITM over the best."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from xxhash import xxh3_128

from albef_ds.common.atomic_files import write_output
from albef_ds.common.errors import DataError
from albef_ds.common.html import data_url, document
from albef_ds.common.progress import Progress, silent
from albef_ds.data.images.thumbnails import jpeg_of
from albef_ds.inference.index.approximate import Approximate
from albef_ds.inference.index.earlier import SUFFIX as EARLIER
from albef_ds.inference.index.earlier import read_earlier
from albef_ds.inference.index.nearest import nearest
from albef_ds.inference.index.store import FeatureStore, Table
from albef_ds.inference.inputs import Member
from albef_ds.inference.kept_tokens import LIMIT, KeptTokens
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.readable import features_or_reasons
from albef_ds.inference.sources import SUFFIXES, Source, source_of

_VIEWS = 2
"""Increased when this package makes other pixels of an image."""
_THUMBNAIL = 240  # pixels
_BATCH = 32
_PARTIAL_SECONDS, _PARTIAL_SHARE = 2.0, 20
"""What is indexed so far is told after this time, or after this many times the time that telling takes."""
_STYLE = """
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; height: 200px; object-fit: contain; } figcaption { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Index:
    """Features of the images of a source at one moment."""

    source: Source
    table: Table
    added: int
    """Number of images encoded in this call."""
    unreadable: list[tuple[str, str]]
    """(name, reason) of files that cannot be read as images."""
    file: Path
    """The index file."""
    identity: str
    """Hash of what the features depend on besides the images."""
    approximate: Approximate | None = None
    """Finds the most similar images instead of exact search."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the images, sorted: of a folder, paths relative to it."""
        return self.table.names

    @property
    def features(self) -> Tensor:
        """float32 (N, embed_dim), unit length: a copy in memory, in the order of `paths`."""
        return torch.from_numpy(self.table.features[self.table.rows])

    def nearest(self, queries: Tensor, k: int) -> list[list[tuple[int, float]]]:
        """(place in `paths`, similarity) of the `k` most similar images for each of `queries` (Q, embed_dim), best first."""
        if self.approximate is not None:
            return self.approximate.nearest(self.table, queries, k)
        return nearest(self.table, queries, k)


@dataclass(frozen=True)
class Hit:
    """One image of the ranking; `match` is the ITM probability, None if it was not re-ranked."""

    path: Path
    similarity: float
    match: float | None
    image: Path | Member
    """What the model reads; the path, unless the image is inside a file."""


def index_images(
    model: AlbefModel,
    source: Source,
    file: Path | None = None,
    progress: Progress = silent,
    partial: Callable[[Index], None] | None = None,
) -> Index:
    """Encodes the images that are new or changed since they were indexed, and adds them to the index.

    Several processes may do so at the same time. Every batch is added at once, so a process that is killed loses none of them.

    Args:
        model: has ITC features.
        source: the images.
        file: the index file; None: the one of `source`.
        progress: called after every batch of new images.
        partial: called before the first batch and every few seconds with what is indexed so far.

    Raises:
        UserError: there is no image, or the index cannot be written.
    """
    target = file or source.index
    identity = _identity(model, xxh3_128())
    store = FeatureStore(target, identity, model.config.model.embed_dim)
    _take_earlier(store, target, model, identity)
    known, listing = store.stamps, source.listing()
    fresh = [name for name, stamp in listing.items() if known.get(name) != stamp]
    unreadable: list[tuple[str, str]] = []
    added, due = 0, 0.0
    for start in range(0, len(fresh), _BATCH):
        if partial is not None and (began := time.monotonic()) >= due:
            partial(Index(source, store.table(listing), added, list(unreadable), target, identity))
            due = time.monotonic() + max(_PARTIAL_SECONDS, _PARTIAL_SHARE * (time.monotonic() - began))
        part = fresh[start : start + _BATCH]
        encoded = features_or_reasons(model, [source.image(name) for name in part])
        found = [(name, row) for name, row in zip(part, encoded, strict=True) if not isinstance(row, str)]
        unreadable += [(name, reason) for name, reason in zip(part, encoded, strict=True) if isinstance(reason, str)]
        if found:
            rows = torch.stack([row for _, row in found]).numpy()
            store.append([name for name, _ in found], [listing[name] for name, _ in found], rows)
        added += len(found)
        progress("images", start + len(part), len(fresh))
    store.tidy(known, listing)
    table = store.table(listing)
    if not table.names:
        raise DataError(f"{source.place} holds no readable image: give a folder with {', '.join(SUFFIXES)} files")
    return Index(source, table, added, unreadable, target, identity)


def index_folder(model: AlbefModel, folder: Path, index: Path | None = None, progress: Progress = silent) -> Index:
    """`index_images` for the images of a folder, of the paths in a text file, or of shards (`sources.source_of`)."""
    return index_images(model, source_of(folder), index, progress)


def kept_tokens(model: AlbefModel, index: Index, limit: int = LIMIT) -> KeptTokens:
    """The tokens of judged images, at most `limit` bytes, in a folder beside the index file."""
    vision = model.config.model.vision
    folder = index.file.with_name(index.file.name.removesuffix(EARLIER) + ".tokens")
    return KeptTokens(folder, index.identity, (vision.num_tokens, vision.width), model.dtype, limit=limit)


def search(
    model: AlbefModel,
    index: Index,
    text: str,
    *,
    top: int,
    rerank: int,
    kept: KeptTokens | None = None,
    progress: Progress = silent,
) -> list[Hit]:
    """The `top` images for `text`: the `rerank` most similar are ordered by ITM probability, the rest follow by similarity.

    Images whose tokens are in `kept` are not encoded again. `progress` is called after every batch of images that ITM has judged.
    """
    [found] = index.nearest(model.encode_text(text).float().cpu(), max(top, rerank))
    images = [index.source.image(index.paths[place]) for place, _ in found]
    judged, matches = images[:rerank], list[float]()
    for start in range(0, len(judged), _BATCH):
        matches += model.match(judged[start : start + _BATCH], text, kept=kept).tolist()
        progress("judging images", len(matches), len(judged))
    order = sorted(range(len(judged)), key=lambda rank: (-matches[rank], rank)) + list(range(len(judged), len(found)))
    hits = []
    for rank in order[:top]:
        path = index.source.path(index.paths[found[rank][0]])
        hits.append(Hit(path, found[rank][1], matches[rank] if rank < len(judged) else None, images[rank]))
    return hits


def with_approximate(index: Index, above: int, progress: Progress = silent) -> Index:
    """The index with approximate search if it has more than `above` images. Raises as `Approximate.of`."""
    if len(index.paths) <= above:
        return index
    return replace(index, approximate=Approximate.of(index.table, index.file, progress))


def write_page(path: Path, text: str, hits: list[Hit], picture: Callable[[Path | Member], Image.Image]) -> None:
    """Writes an HTML page that contains the images as `picture` (`AlbefModel.picture`) reads them.

    Raises `UserError` if it cannot be written.
    """
    cards = []
    for number, hit in enumerate(hits, start=1):
        thumbnail = data_url(jpeg_of(picture(hit.image), _THUMBNAIL), "jpeg")
        match = "" if hit.match is None else f" &middot; match {hit.match:.3f}"
        cards.append(
            f'<figure><img src="{thumbnail}" alt="{html.escape(hit.path.name)}">'
            f"<figcaption>{number}. {html.escape(hit.path.name)}<br>similarity {hit.similarity:.3f}{match}</figcaption></figure>"
        )
    write_output(path, document(text, [f"<h1>{html.escape(text)}</h1>", f"<main>{''.join(cards)}</main>"], _STYLE))


def _identity(model: AlbefModel, digest: Any) -> str:
    """Hash of what image features depend on: the encoder's settings and weights, the precision, and what decodes the images."""
    config = model.config
    vision = {name: value for name, value in asdict(config.model.vision).items() if name != "frozen"}
    decoding = {name: _version(name) for name in ("torch", "pillow", "simplejpeg")}
    read = {"max_pixels": config.data.max_pixels, "compat": config.evaluation_data.compat, "decoding": decoding}
    depends_on = {"vision": vision, "precision": str(model.dtype), **read}
    digest.update(json.dumps([_VIEWS, depends_on], sort_keys=True).encode())
    for name, parameter in sorted(model.task.named_parameters()):
        if "visual_encoder" in name or "vision_proj" in name:
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().contiguous().view(torch.uint8).numpy())
    found: str = digest.hexdigest()
    return found


def _take_earlier(store: FeatureStore, target: Path, model: AlbefModel, identity: str) -> None:
    """Takes the features that an earlier version has kept, and removes its file."""
    if store.stamps:
        return
    for path in (target, target.with_name(target.name + EARLIER)):
        found = read_earlier(path, lambda digest: _identity(model, digest), identity) if path.is_file() else None
        if found is not None:
            stamps, features = found
            store.append(list(stamps), list(stamps.values()), features)
            if path != target:
                for old in (path, path.with_name(path.name + ".lock")):
                    old.unlink(missing_ok=True)
            return


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
