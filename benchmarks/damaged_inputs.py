"""Inputs of `benchmarks/data_tools_fuzz.py`: small sources of every kind, and random damage to their bytes."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PAIRS = 6
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def encoded(number: int, form: str = "JPEG") -> bytes:
    """A small picture as a file, another for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((48, 36), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """`content` after one to three changes."""
    raw = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place = draw.randrange(len(raw) + 1) if draw.random() < 0.7 else min(draw.randrange(600), len(raw))
        length = draw.choice((1, 2, 8, 100, 512, 1024))
        kind = draw.randrange(9)
        if kind == 0:
            raw = raw[:place]
        elif kind == 1:
            del raw[place : place + length]
        elif kind == 2:
            raw[place:place] = draw.randbytes(length)
        elif kind == 3:
            raw[place : place + length] = bytes(len(raw[place : place + length]))
        elif kind == 4:
            raw[place:place] = raw[place : place + length]
        elif kind == 5:
            raw[place:place] = draw.choice((b'"', b"\n", b"\0", b"\xff", b"NaN", b"[", b"}", b"-1", b"\xef\xbb\xbf", b"\\ud800"))
        elif raw:
            raw[min(place, len(raw) - 1)] ^= 1 << draw.randrange(8)
    return bytes(raw)


def damage_file(path: Path, draw: random.Random, *, pipes: bool = True) -> None:
    """Damages a file in place; now and then it is replaced by something that is no file, a pipe only if `pipes`."""
    chance = draw.random()
    content = path.read_bytes()
    if chance > 0.02:
        path.write_bytes(damaged(content, draw))
        return
    path.unlink()
    if chance < 0.005:
        path.mkdir()
    elif chance < 0.01 and pipes:
        os.mkfifo(path)


def captions() -> list[str]:
    """The captions of the input."""
    return [f"picture number {number}" for number in range(PAIRS)]


# Inputs: each writes itself into a folder and returns the source and the files to damage.

Input = tuple[str, list[Path]]


def webdataset_tar(folder: Path, draw: random.Random) -> Input:
    """A tar of pairs in one of tarfile's formats."""
    form = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(folder / "0.tar", "w", format=form) as tar:
        for number, caption in enumerate(captions()):
            for name, content in ((f"{number}.jpg", encoded(number)), (f"{number}.txt", caption.encode())):
                info = tarfile.TarInfo(draw.choice(("", "x" * 120 + "/")) + name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return f"x=webdataset:{folder}/0.tar", [folder / "0.tar"]


def picture_files(folder: Path, form: str = "JPEG") -> list[str]:
    """Pictures in a folder; their names."""
    names = []
    for number in range(PAIRS):
        names.append(f"{number}.{form.lower()}")
        (folder / names[-1]).write_bytes(encoded(number, form))
    return names


def table(folder: Path, draw: random.Random) -> Input:
    """A list of paths and captions in one of the forms of kind `table` or `json`."""
    rows = [
        {"image": n, "caption": c, "image_id": i} for i, (n, c) in enumerate(zip(picture_files(folder), captions(), strict=True))
    ]
    ending = draw.choice(("parquet", "csv", "tsv", "jsonl", "json"))
    path = folder / f"list.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, compression=draw.choice(("none", "snappy", "zstd")))
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == "json":
        path.write_text(json.dumps(rows, indent=draw.choice((None, 1))))
    else:
        mark = "," if ending == "csv" else "\t"
        path.write_text(
            "".join(mark.join(map(str, row)) + "\n" for row in [list(rows[0]), *(list(row.values()) for row in rows)])
        )
    kind = "json" if ending == "json" else "table"
    return f"x={kind}:{path}" + ("" if kind == "json" or draw.random() < 0.7 else ",keep=image_id"), [path]


def coco(folder: Path, draw: random.Random) -> Input:
    """COCO's captions JSON."""
    names = picture_files(folder)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    raw = {"images": images, "annotations": [{"image_id": n, "caption": c} for n, c in enumerate(captions())]}
    (folder / "captions.json").write_text(json.dumps(raw, indent=1))
    return f"x=coco:{folder}/captions.json", [folder / "captions.json"]


def img2dataset(folder: Path, draw: random.Random) -> Input:
    """A shard of img2dataset: table and tar."""
    keys = [f"{number:09d}" for number in range(PAIRS)]
    urls = [f"http://x/{number}" for number in range(PAIRS)]
    pq.write_table(
        pa.table({"url": urls, "caption": captions(), "key": keys, "status": ["success"] * PAIRS}), folder / "00000.parquet"
    )
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, caption in enumerate(captions()):
            for ending, content in (("jpg", encoded(number)), ("txt", caption.encode()), ("json", b"{}")):
                info = tarfile.TarInfo(f"{keys[number]}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return f"x=img2dataset:{folder}", [folder / draw.choice(("00000.parquet", "00000.tar"))]


def pictures(folder: Path, draw: random.Random) -> Input:
    """A folder of pictures and texts."""
    names = picture_files(folder, draw.choice(FORMATS))
    for name, caption in zip(names, captions(), strict=True):
        (folder / name).with_suffix(".txt").write_text(caption)
    chosen = [folder / name for name in draw.sample(names, 2)]
    return f"x=folder:{folder}", [path if draw.random() < 0.8 else path.with_suffix(".txt") for path in chosen]


SOURCES: dict[str, Callable[[Path, random.Random], Input]] = {
    "tar": webdataset_tar,
    "list": table,
    "coco": coco,
    "img2dataset": img2dataset,
    "pictures": pictures,
}
