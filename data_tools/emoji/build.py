"""Builds the emoji corpus: splits of concepts, shards per split, one compressed file per split."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_ds.common.atomic_files import scratch_path, write_file, write_json
from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import Manifest
from data_tools.config import DedupConfig, PlanConfig
from data_tools.emoji.concepts import Concept, captions, draw, read_concepts, split_concepts
from data_tools.emoji.sources import EMOJIBASE, PACKAGES, locate
from data_tools.emoji.styles import QUALITY, SIZE, Style, read_styles
from data_tools.execution.executors import Parallel
from data_tools.files.shard_writer import member_blocks, tar_header
from data_tools.pipeline import ChainConfig
from data_tools.pipeline import build as chain
from data_tools.readers.source import SourceSpec
from data_tools.stages.hash_files import FINGERPRINTS_NAME
from data_tools.stages.plan_files import DECISIONS_NAME

SPLITS = ("train", "val", "test", "flags")
SEED = 0
SAMPLES_PER_SHARD = 1000
CHECKSUMS = "checksums.json"


def split_images(concepts: list[Concept], styles: list[Style], split: str, seed: int) -> Iterator[tuple[Concept, Style, bytes]]:
    """Yields the samples of one split in the order in which they are written, no image twice.

    `train` holds every style of every concept, globally shuffled. The other splits are galleries of one image per concept, in
    the first style whose image is new: some sets draw several concepts alike, and repeated images would make answers ambiguous.
    """
    every = [(concept, style) for concept in concepts for style in styles if concept.code in style.images]
    if split == "train":
        every.sort(key=lambda pair: draw(seed, f"{pair[0].code} {pair[1].name}"))
    seen: set[bytes] = set()
    shown: set[str] = set()
    for concept, style in every:
        if split != "train" and concept.code in shown:
            continue
        image = style.webp(concept.code)
        if image not in seen:
            seen.add(image)
            shown.add(concept.code)
            yield concept, style, image


def meta(concept: Concept, style: Style, split: str, seed: int) -> dict[str, Any]:
    """The JSON of a sample; gallery samples have the label as their only caption.

    `image_id` is the concept: each of its drawings matches each of its captions, so none is a negative of another.
    """
    texts = captions(concept, seed) if split == "train" else [concept.label]
    about = {"label": concept.label, "tags": list(concept.tags), "hexcode": concept.code, "set": style.name}
    groups = {"group": concept.group, "subgroup": concept.subgroup, "family": concept.family}
    return {"captions": texts, "image_id": concept.code, "source": style.name, **about, **groups}


def build(sources: Path, out: Path, *, seed: int = SEED, codes: frozenset[str] | None = None) -> dict[str, Manifest]:
    """Writes `out/SPLIT` for every split from the packages unpacked in `sources`; returns the manifests.

    This function decides splits, captions and order; `albef-data`'s chain reads, checks, plans and writes. The same versions of
    packages, renderer and image library give the same bytes. `codes` limits the concepts (tests). Raises UserError if a package
    is missing or `out` already holds a corpus.
    """
    packages = locate(sources)
    concepts, dropped = read_concepts(packages[EMOJIBASE.name])
    if codes is not None:
        concepts = [concept for concept in concepts if concept.code in codes]
    styles = read_styles(packages)
    split_of = split_concepts(concepts, seed)
    manifests = {}
    for split in SPLITS:
        members = [concept for concept in concepts if split_of[concept.code] == split]
        chosen = list(split_images(members, styles, split, seed))
        if not chosen:
            continue
        shown = {concept.code for concept, _, _ in chosen}
        info = {
            "corpus": "emoji",
            "split": split,
            "seed": seed,
            "picture": f"WebP quality {QUALITY}, {SIZE} x {SIZE} pixels, on white",
            "sources": [f"{package.name} {package.version}" for package in PACKAGES],
            "concepts": len(shown),
            "families": len({concept.family for concept, _, _ in chosen}),
            "samples_per_set": dict(sorted(Counter(style.name for _, style, _ in chosen).items())),
            "left_out": {**dropped, "concepts without a picture of their own": len(members) - len(shown)},
        }
        rows = [(image, meta(concept, style, split, seed)) for concept, style, image in chosen]
        manifests[split] = _through_the_chain(rows, out / f".{split}", out / split, info)
    return manifests


def _through_the_chain(rows: list[tuple[bytes, dict[str, Any]]], work: Path, corpus: Path, info: dict[str, Any]) -> Manifest:
    """Writes images and a table of their metadata into `work`, makes `corpus` with `albef-data`'s chain and removes `work`.

    Order and duplicates are already decided, so the chain keeps the order and must drop nothing. `info` replaces the chain's in
    the manifest: it describes the corpus, not the call of this tool.
    """
    (work / "raw").mkdir(parents=True)
    lines = []
    for number, (image, about) in enumerate(rows):
        (work / "raw" / f"{number:05d}.webp").write_bytes(image)
        lines.append(json.dumps({"image": f"{number:05d}.webp", **about}) + "\n")
    (work / "raw" / "list.jsonl").write_text("".join(lines), encoding="utf-8")
    keep = "+".join(name for name in rows[0][1] if name not in ("captions", "image_id"))
    source = SourceSpec("emoji", "table", str(work / "raw" / "list.jsonl"), keep=keep)
    config = ChainConfig(
        plan=PlanConfig(samples_per_shard=SAMPLES_PER_SHARD, shuffle=False, even=False),
        dedup=DedupConfig(radius=-1, jaccard=0.0),
    )
    found = chain(work, corpus, [source], config, Parallel(workers=1))
    if found.num_samples != len(rows):
        raise DataError(f"{len(rows) - found.num_samples} emoji were dropped: see {work}/plan/{DECISIONS_NAME}")
    (corpus / FINGERPRINTS_NAME).unlink()
    manifest = Manifest(found.shards, info)
    manifest.save(corpus)
    shutil.rmtree(work)
    return manifest


def pack(corpus: Path, out: Path) -> None:
    """Packs each split to `out/SPLIT.tar.xz`, with sha256 in `out/checksums.json`. Raises DataError if `corpus` has no split."""
    splits = [split for split in SPLITS if (corpus / split).is_dir()]
    if not splits:
        raise DataError(f"{corpus} holds no split: build the corpus first")
    out.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for split in splits:
        content = lzma.compress(_tar(corpus / split), preset=9)
        write_file(out / f"{split}.tar.xz", content, durable=True)
        checksums[f"{split}.tar.xz"] = hashlib.sha256(content).hexdigest()
    write_json(out / CHECKSUMS, checksums, durable=True, indent=1)


def build_and_pack(sources: Path, out: Path) -> dict[str, Manifest]:
    """Writes the whole corpus in its shipped form to `out` and removes the unpacked form."""
    out.mkdir(parents=True, exist_ok=True)
    with scratch_path(out / "unpacked") as scratch:
        manifests = build(sources, scratch)
        pack(scratch, out)
    return manifests


def _tar(folder: Path) -> bytes:
    """A tar, without times or owners, of the files of `folder` as `FOLDER/FILE`."""
    buffer = io.BytesIO()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        buffer.write(tar_header(f"{folder.name}/{path.name}", len(content)))
        buffer.write(content.ljust(member_blocks(len(content)) - 512, b"\0"))
    buffer.write(bytes(1024))
    return buffer.getvalue()
