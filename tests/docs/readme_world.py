"""What the commands of the README find, under its names: small models, pictures, annotations, shards and a download."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.checkpoint.formats.released_files import state_dict
from tests.data.conftest import numbered_corpus
from tests.data_tools.sample_images import jpeg, tar_of
from tests.inference.tiny_models import model_folder, picture

TINY_ENCODERS = (
    "model.vision.image_size=32",
    "model.vision.patch_size=8",
    "model.vision.width=24",
    "model.vision.depth=2",
    "model.vision.num_heads=2",
    "model.text.width=24",
    "model.text.num_layers=2",
    "model.text.num_fusion_layers=2",
    "model.text.num_heads=2",
    "model.text.intermediate_width=48",
    "model.text.max_positions=25",
    "model.embed_dim=8",
)
"""The settings of `tests.inference.tiny_models`, for recipes of the paper's size."""
ONE_STEP = (
    "engine.kind=local",
    "engine.precision=fp32",
    "engine.momentum_storage=dense",
    "engine.device=cpu",
    "task.queue_size=16",
    "data.num_workers=0",
    "data.max_tokens=20",
    "train.micro_batch_size=4",
    "train.global_batch_size=4",
    "train.max_steps=1",
    "train.dry_run_batch=false",
)
CAPTIONS = ("a red cup", "two dogs on the table", "a blue ball", "three cats", "the green table", "a dog")


def write_world(folder: Path) -> None:
    """Fill `folder`."""
    model_folder(folder, "retrieval")
    shutil.copytree(folder / "retrieval", folder / "albef")
    (folder / "runs").mkdir()
    shutil.copytree(folder / "retrieval", folder / "runs" / "demo")
    shutil.copytree(folder / "retrieval", folder / "runs" / "retrieval_flickr")
    torch.save({"model": state_dict("retrieval")}, folder / "ALBEF.pth")
    for name in ("photos", "FOLDER"):
        (folder / name).mkdir()
        for number in range(len(CAPTIONS)):
            picture(number).save(folder / name / f"{number}.jpg")
    pairs = [{"image": f"{number}.jpg", "caption": text, "image_id": number} for number, text in enumerate(CAPTIONS)]
    held_out = [{"image": pair["image"], "caption": [pair["caption"]]} for pair in pairs]
    for split, entries in (("train", pairs), ("val", held_out), ("test", held_out)):
        (folder / f"{split}.json").write_text(json.dumps(entries))
    numbered_corpus(folder / "corpus", 8, 4)
    _download(folder / "pairs")


def _download(folder: Path) -> None:
    """The output of img2dataset: eight pictures, one of which failed."""
    folder.mkdir()
    keys = [f"{number:09d}" for number in range(8)]
    rows = [
        {"url": f"u{key}", "caption": f"a picture that shows number {number}", "key": key, "status": "success"}
        for number, key in enumerate(keys)
    ]
    rows[3]["status"] = "failed_to_download"
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    members = [(f"{key}.jpg", jpeg(number, width=320, height=300)) for number, key in enumerate(keys) if number != 3]
    tar_of(folder / "00000.tar", members)
