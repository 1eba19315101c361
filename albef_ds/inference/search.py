"""Searches a folder of images: ITC over all features, which are kept in one index file, then ITM over the best."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from xxhash import xxh3_128

from albef_ds.common.atomic_files import check_target, locked, write_output
from albef_ds.common.errors import DataError
from albef_ds.common.html import document
from albef_ds.common.progress import Progress, silent
from albef_ds.inference.kept_tokens import LIMIT, KeptTokens
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.readable import features_or_reasons
from albef_ds.inference.thumbnails import jpeg_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
"""HEIC is read where the package pillow-heif is installed; of an animation the first image counts."""
INDEX_NAME = ".albef-index.safetensors"
_VIEWS = 2
"""Increased when this package makes other pixels of an image."""
_THUMBNAIL = 240  # pixels
_BATCH = 32
_SAVE_SECONDS, _SAVE_SHARE = 30.0, 20
"""A long indexing is saved after this time, or after this many times the time that saving takes."""
_STYLE = """
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; height: 200px; object-fit: contain; } figcaption { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Index:
    """Features of the images in a folder."""

    folder: Path
    paths: list[str]
    """Paths relative to the folder, sorted."""
    features: Tensor
    """float32 (N, embed_dim), unit length."""
    added: int
    """Number of images encoded in this call."""
    unreadable: list[tuple[str, str]]
    """(path, reason) of files that cannot be read as images."""
    file: Path
    """The index file."""
    identity: str
    """Hash of what the features depend on besides the images."""


@dataclass(frozen=True)
class Hit:
    """One image of the ranking; `match` is the ITM probability, None if it was not re-ranked."""

    path: Path
    similarity: float
    match: float | None


def index_folder(model: AlbefModel, folder: Path, index: Path | None = None, progress: Progress = silent) -> Index:
    """Encodes the images of `folder` that are new or changed since the index file was written, and updates it.

    Several processes may do so at the same time. What is encoded is saved every half minute, so little is lost if one is killed.

    Args:
        model: has ITC features.
        folder: is searched with its subfolders.
        index: the index file; None: INDEX_NAME in `folder`.
        progress: called after every batch of new images.

    Raises:
        UserError: there is no such folder, no image in it, or the index cannot be written.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give one with images")
    stamps = image_files(folder)
    target = index or folder / INDEX_NAME
    check_target(target)
    identity = _identity(model, xxh3_128())
    known, old = _read(target, model, identity)
    features: dict[str, Tensor] = {name: known[name][1] for name in stamps if name in known and known[name][0] == stamps[name]}
    fresh = [name for name in stamps if name not in features]
    unreadable = []
    due = time.monotonic() + _SAVE_SECONDS
    for start in range(0, len(fresh), _BATCH):
        part = fresh[start : start + _BATCH]
        for name, encoded in zip(part, features_or_reasons(model, [folder / name for name in part]), strict=True):
            if isinstance(encoded, str):
                unreadable.append((name, encoded))
            else:
                features[name] = encoded
        progress("images", min(start + _BATCH, len(fresh)), len(fresh))
        if (began := time.monotonic()) >= due and features:
            _store(target, model, identity, folder, features, stamps)
            due = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * (time.monotonic() - began))
    kept = sorted(features)
    if not kept:
        raise DataError(f"{folder} holds no readable image: give a folder with {', '.join(SUFFIXES)} files")
    stacked = torch.stack([features[name] for name in kept])
    if old or fresh or set(known) != set(kept):
        _store(target, model, identity, folder, features, stamps)
    return Index(folder, kept, stacked, len(fresh) - len(unreadable), unreadable, target, identity)


def image_files(folder: Path) -> dict[str, str]:
    """Returns the image files below `folder`, sorted: path relative to it, and size and time of the last change."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return {path.relative_to(folder).as_posix(): _stamp(path) for path in found}


def kept_tokens(model: AlbefModel, index: Index, limit: int = LIMIT) -> KeptTokens:
    """The tokens of judged images, at most `limit` bytes, in a folder beside the index file."""
    vision = model.config.model.vision
    folder = index.file.with_suffix(".tokens")
    return KeptTokens(folder, index.identity, (vision.num_tokens, vision.width), model.dtype, limit=limit)


def search(model: AlbefModel, index: Index, text: str, *, top: int, rerank: int, kept: KeptTokens | None = None) -> list[Hit]:
    """The `top` images for `text`: the `rerank` most similar are ordered by ITM probability, the rest follow by similarity.

    Images whose tokens are in `kept` are not encoded again.
    """
    similarity = (index.features @ model.encode_text(text).float().cpu().t())[:, 0]
    order = similarity.argsort(descending=True, stable=True).tolist()
    shortlist = order[:rerank]
    matches: dict[int, float] = {}
    if shortlist:
        paths = [index.folder / index.paths[row] for row in shortlist]
        matches = dict(zip(shortlist, model.match(paths, text, kept=kept).tolist(), strict=True))
    ranked = sorted(shortlist, key=lambda row: (-matches[row], -float(similarity[row]))) + order[rerank:]
    return [Hit(index.folder / index.paths[row], float(similarity[row]), matches.get(row)) for row in ranked[:top]]


def write_page(path: Path, text: str, hits: list[Hit], picture: Callable[[Path], Image.Image]) -> None:
    """Writes an HTML page that contains the images as `picture` (`AlbefModel.picture`) reads them.

    Raises `UserError` if it cannot be written.
    """
    cards = []
    for number, hit in enumerate(hits, start=1):
        thumbnail = base64.b64encode(jpeg_of(picture(hit.path), _THUMBNAIL)).decode("ascii")
        match = "" if hit.match is None else f" &middot; match {hit.match:.3f}"
        cards.append(
            f'<figure><img src="data:image/jpeg;base64,{thumbnail}" alt="{html.escape(hit.path.name)}">'
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


def _store(
    target: Path, model: AlbefModel, identity: str, folder: Path, features: dict[str, Tensor], stamps: dict[str, str]
) -> None:
    """Replaces the index file by `features`, and by those that another process has added meanwhile for files as they are now."""
    with locked(target):
        entries = {name: (stamps[name], row) for name, row in features.items()}
        for name, (stamp, row) in _read(target, model, identity)[0].items():
            if name not in entries and stamp == _stamp(folder / name):
                entries[name] = (stamp, row)
        kept = sorted(entries)
        described = {"model": identity, "stamps": json.dumps({name: entries[name][0] for name in kept})}
        write_output(target, save({"features": torch.stack([entries[name][1] for name in kept])}, described))


def _stamp(path: Path) -> str:
    """Size and time of the last change of a file; empty if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{facts.st_size}:{facts.st_mtime_ns}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _read(path: Path, model: AlbefModel, identity: str) -> tuple[dict[str, tuple[str, Tensor]], bool]:
    """Name to (stamp, feature), and whether an earlier version wrote the index, which hashed by SHA-256.

    Empty if there is no index of this model or a damaged one, which is then replaced.
    """
    try:
        with safe_open(path, "pt") as stored:
            described = stored.metadata() or {}
            old = len(described["model"]) == 2 * hashlib.sha256().digest_size
            if described["model"] != (_identity(model, hashlib.sha256()) if old else identity):
                return {}, False
            stamps: dict[str, str] = json.loads(described["stamps"])
            rows = stored.get_tensor("features")
            return {name: (stamp, row) for (name, stamp), row in zip(stamps.items(), rows, strict=True)}, old
    except (OSError, SafetensorError, ValueError, KeyError):
        return {}, False
