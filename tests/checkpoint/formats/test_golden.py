"""A released file of the golden set's weights, converted: the released code's own outputs come out of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.data.batch import Batch, ClassificationBatch
from albef_ds.inference import model as interface
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.vqa import VqaTask
from tests.checkpoint.formats.released_files import HEADS
from tests.golden import recipe

PUBLIC = Path(__file__).resolve().parents[2] / "golden" / "public"
CONFIG = json.loads((PUBLIC / "config.json").read_text())
TOLERANCE = 1e-5
"""The released code's fp32 run strays from its fp64 run by 1.6e-6 in the probabilities of VQA (golden/tolerance.json)."""


def golden_file(path: Path, kind: str) -> Path:
    """The weights that the golden run of `kind` started with, as a released training dict."""
    content = json.loads((PUBLIC / f"{kind}_a0.4_distill.json").read_text())
    tensors: dict[str, Tensor] = {}
    for name, shape in content["state_dict"].items():
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(shape[1]).expand(1, -1)
        elif name in ("image_queue", "text_queue"):
            tensors[name] = torch.from_numpy(recipe.queue(CONFIG["seed"], name, CONFIG["embed_dim"], CONFIG["queue_size"]))
        elif name in ("queue_ptr", "idx_queue"):
            tensors[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            origin = content["aliases"].get(name, name)
            tensors[name] = torch.from_numpy(recipe.parameter(CONFIG["seed"], origin, tuple(shape), CONFIG["temp"]))
    torch.save({"model": tensors}, path)
    return path


def converted(tmp_path: Path, kind: str) -> interface.AlbefModel:
    """Released file -> model folder -> `load`."""
    source = golden_file(tmp_path / "released.pth", kind)
    convert(read_model(source, HEADS), tmp_path / "folder", Options("folder"))
    return interface.load(tmp_path / "folder", device="cpu")


def inputs(kind: str) -> dict[str, Tensor]:
    """Batch 0 of the golden run."""
    return {name: torch.from_numpy(value) for name, value in recipe.batch(kind, CONFIG, 0).items()}


def golden_arrays(kind: str) -> dict[str, Tensor]:
    """What the released code's modules gave in step 1, before any update."""
    with np.load(PUBLIC / f"{kind}_a0.4_distill.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("kind", ["pretrain", "retrieval"])
def test_encoders_features_and_matching_are_the_released_codes(tmp_path: Path, kind: str) -> None:
    model, given, golden = converted(tmp_path, kind), inputs(kind), golden_arrays(kind)
    albef, mask = model.task.model, given["att"].bool()
    text_module = "text_encoder.bert" if kind == "pretrain" else "text_encoder"
    with torch.no_grad():
        image, text = albef.encode_image(given["image"]), albef.encode_text(given["ids"], mask)
        [fused] = albef.fuse(image, [FusionPass(text, mask)])
    for got, name in (
        (image, "visual_encoder#0"),
        (text, f"{text_module}#0"),
        (model.encode_image(given["image"]), "image_feat"),
        (F.normalize(albef.text_proj(text[:, 0]), dim=-1), "text_feat"),
        (fused, f"{text_module}#1"),
    ):
        torch.testing.assert_close(got, golden[name], atol=TOLERANCE, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["ve", "nlvr"])
def test_predictions_are_the_released_codes(tmp_path: Path, kind: str) -> None:
    model, given = converted(tmp_path, kind), inputs(kind)
    batch = len(given["ids"])
    images = given["image"].view(-1, batch, *given["image"].shape[1:]).transpose(0, 1)
    task = model.task
    assert isinstance(task, ClassificationTask)
    made = ClassificationBatch(
        images=images,
        token_ids=given["ids"],
        token_mask=given["att"].bool(),
        labels=given["targets"],
        positions=torch.arange(batch),
    )
    with torch.no_grad():
        logits = task.logits(made)
    torch.testing.assert_close(logits, golden_arrays(kind)["prediction"], atol=TOLERANCE, rtol=0)


def test_ranked_answers_are_the_released_codes(tmp_path: Path) -> None:
    model, given = converted(tmp_path, "vqa"), inputs("vqa")
    ids, mask = (torch.from_numpy(array) for array in recipe.candidates(CONFIG))
    task = model.task
    assert isinstance(task, VqaTask)
    batch = Batch(
        images=given["image"], token_ids=given["ids"], token_mask=given["att"].bool(), positions=torch.arange(len(given["ids"]))
    )
    for expected in json.loads((PUBLIC / "vqa_a0.4_distill.json").read_text())["float32"]["rank"]:
        with torch.no_grad():
            answers, probs = task.rank_answers(task.fuse_question(batch), batch.token_mask, ids, mask.bool(), expected["k"])
        assert answers.tolist() == expected["topk_ids"]
        torch.testing.assert_close(probs, torch.tensor(expected["topk_probs"]), atol=TOLERANCE, rtol=0)
