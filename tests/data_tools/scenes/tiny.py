"""A folder of few small scenes, and a toy model that reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes
from tests.tiny import tiny_model

COUNTS = SceneCounts(pretrain=60, retrieval=20, questions=20, nlvr=12, entailment=18, expressions=20, evaluation=15, gallery=12)
SETTINGS = SceneSettings(side=32, counts=COUNTS)
MODEL = tiny_model(
    vision={"image_size": 32, "width": 16, "depth": 1, "stem": "convolution"},
    text={"vocab_size": 45, "num_layers": 1},
)
FILES: dict[str, dict[str, str]] = {
    "scenes_retrieval": {"annotations": "retrieval_train", "eval": "retrieval_val", "test": "retrieval_test"},
    "scenes_vqa": {"annotations": "vqa_train", "eval": "vqa_val", "test": "vqa_test"},
    "scenes_nlvr": {"annotations": "nlvr_train", "eval": "nlvr_dev", "test": "nlvr_test"},
    "scenes_entailment": {"annotations": "ve_train", "eval": "ve_dev", "test": "ve_test"},
    "scenes_grounding": {"annotations": "refcoco_train", "eval": "refcoco_val", "test": "refcoco_test"},
}
"""Annotation files of each fine-tuning recipe."""


def tiny_scenes(folder: Path) -> dict[str, Any]:
    """Write the folder; the content of its scenes.json."""
    return write_scenes(folder, SETTINGS)


def tiny_config(recipe: str, scenes: Path, *overrides: str) -> RunConfig:
    """The recipe with the toy model, micro-batches of 4, in one process, on the tiny scenes."""
    config = replace(get_recipe(recipe), model=MODEL)
    files = FILES.get(recipe, {})
    named = [
        f"data.{'annotations' if key == 'annotations' else f'{key}_annotations'}={scenes}/{name}.json"
        for key, name in files.items()
    ]
    if recipe == "scenes_grounding":
        named += [
            f"data.{name}={scenes}/{file}.json"
            for name, file in (("refs", "refs"), ("instances", "instances"), ("detections", "dets"))
        ]
    if recipe == "scenes_vqa":
        named.append(f"data.answer_list={scenes}/answer_list.json")
    if recipe in ("scenes_pretrain", "scenes_nlvr_pretrain"):
        named.append(f"data.shards={scenes}/pretrain/train")
    small = [
        "train.micro_batch_size=4",
        "train.global_batch_size=4",
        "engine.kind=local",
        "engine.momentum_storage=dense",
        f"data.vocab_file={scenes}/vocab.txt",
        f"data.image_root={scenes}/images",
    ]
    return parse_overrides(config, [*small, *named, *overrides])
