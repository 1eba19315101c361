"""Prefixes are left out, other frameworks are called by their name, and heads that weights do not show are asked for."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from albef_ds.checkpoint.foreign_names import BERT_HEADS, VIT_HEADS, ask_for_heads, check_heads, framework, without_prefix
from albef_ds.checkpoint.formats.inspect import inspect
from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.initial.encoders import load_text_encoder, load_visual_encoder
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, StoredTensors
from albef_ds.checkpoint.tensor_files.opening import open_tensors
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.config.schema import InitConfig, ModelConfig, RunConfig, TextConfig, VisionConfig
from tests.checkpoint.formats.released_files import HEADS, state_dict
from tests.checkpoint.initial.test_encoders import albef, bert, vit

ONE = LazyTensor.of(torch.ones(1))


def _stored(*names: str) -> StoredTensors:
    return StoredTensors(dict.fromkeys(names, ONE))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "backbone.", "model.net.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_left_out(prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in state_dict("retrieval").items()}
    torch.save({"model": state}, tmp_path / "a.pth")
    model = read_model(tmp_path / "a.pth", HEADS).model
    assert model.kind == "retrieval" and any(prefix in remark for remark in model.remarks)
    torch.save({prefix + name: tensor for name, tensor in vit().state_dict().items()}, tmp_path / "vit.pth")
    assert load_visual_encoder(albef(), tmp_path / "vit.pth").share_of_parameters == 1.0
    lines = list(inspect(tmp_path / "vit.pth"))
    assert "a ViT or DeiT file: init.visual_encoder" in lines[0] and f"names begin with {prefix}, which is left out" in lines[1]


@pytest.mark.parametrize(("prefix", "note"), [("", False), ("bert.", False), ("module.bert.", True)])
def test_a_bert_is_inspected_with_any_prefix(prefix: str, note: bool, tmp_path: Path) -> None:
    torch.save({prefix + name: tensor for name, tensor in bert().state_dict().items()}, tmp_path / "bert.bin")
    lines = list(inspect(tmp_path / "bert.bin"))
    assert "a BERT file: init.text_encoder" in lines[0] and ("is left out" in lines[1]) == note


def test_a_prefix_of_some_names_is_left_out_of_those() -> None:
    stored, prefix = without_prefix(_stored("m.backbone.cls_token", "m.backbone.norm.bias", "m.head.weight"), "cls_token", "f")
    assert prefix == "m.backbone." and set(stored.tensors) == {"cls_token", "norm.bias", "head.weight"}


def test_several_models_in_one_file_are_named() -> None:
    with pytest.raises(WeightsError, match=r"holds several models \(student\., teacher\.\)"):
        without_prefix(_stored("student.cls_token", "teacher.cls_token"), "cls_token", "f")
    with pytest.raises(WeightsError, match=r"with and without the prefix backbone\."):
        without_prefix(_stored("backbone.cls_token", "backbone.a", "a"), "cls_token", "f")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "CLIP or SigLIP"),
        ("visual.transformer.resblocks.0.ln_1.weight", "open_clip"),
        ("vit.encoder.layer.0.attention.attention.query.weight", "ViT of transformers"),
        ("decoder_blocks.0.norm1.weight", "MAE"),
        ("blocks.0.ls1.gamma", "DINOv2"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "Swin"),
        ("roberta.embeddings.word_embeddings.weight", "RoBERTa"),
        ("distilbert.transformer.layer.0.attention.q_lin.weight", "DistilBERT"),
        ("text_encoder.encoder.layer.0.crossattention.self.key.weight", "BLIP"),
        ("transformer.blocks.0.attn.qkv.weight", "ViLT"),
    ],
)
def test_other_frameworks_are_called_by_their_name(name: str, what: str, tmp_path: Path) -> None:
    torch.save({name: torch.ones(2)}, tmp_path / "a.pth")
    for read in (read_model, lambda path: load_visual_encoder(albef(), path), lambda path: load_text_encoder(albef(), path)):
        with pytest.raises(WeightsError, match=what):
            read(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["pretrain", "retrieval", "vqa", "nlvr", "ve", "text_assignment"])
def test_the_models_that_are_read_are_no_other_framework(kind: str) -> None:
    assert framework(state_dict(kind)) == framework(vit().state_dict()) == framework(bert().state_dict()) == ""


def test_a_whole_model_in_the_place_of_an_encoder_is_said(tmp_path: Path) -> None:
    torch.save(state_dict("retrieval"), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"whole ALBEF model: give it as init\.checkpoint"):
        load_text_encoder(albef(), tmp_path / "a.pth")


def test_heads_of_published_widths_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"published models of width 384 have 6 heads: set model\.vision\.num_heads=6"):
        check_heads(tmp_path / "deit_s.pth", "vision", VisionConfig(width=384), VIT_HEADS)
    check_heads(tmp_path / "deit_s.pth", "vision", VisionConfig(width=384, num_heads=6), VIT_HEADS)
    check_heads(tmp_path / "own.pth", "vision", VisionConfig(width=384, num_heads=8), VIT_HEADS)
    check_heads(tmp_path / "minilm", "text", TextConfig(width=384), BERT_HEADS)
    with pytest.raises(ConfigError, match=r"set model\.text\.num_heads=8"):
        check_heads(tmp_path / "bert.bin", "text", TextConfig(width=516), {516: 8})


def test_heads_of_an_unknown_width_are_asked_for() -> None:
    vision = VisionConfig(width=480)
    config = RunConfig(model=ModelConfig(vision=vision), init=InitConfig(visual_encoder="vit.pth", text_encoder="scratch"))
    with pytest.raises(
        ConfigError, match=r"vit\.pth of width 480 do not show the number of heads: give model\.vision\.num_heads=N"
    ):
        ask_for_heads(config, [])
    ask_for_heads(config, ["model.vision.num_heads"])
    ask_for_heads(replace(config, init=replace(config.init, visual_encoder="scratch")), [])
    ask_for_heads(replace(config, model=ModelConfig(vision=replace(vision, num_heads=8))), [])


def test_heads_that_a_folder_states_are_compared(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    with pytest.raises(ConfigError, match=r"has 4 heads: set model\.text\.num_heads=4"):
        check_heads(tmp_path, "text", TextConfig(width=64, num_heads=2), BERT_HEADS)
    check_heads(tmp_path, "text", TextConfig(width=64, num_heads=4), BERT_HEADS)


@pytest.mark.parametrize(
    ("value", "name"),
    [(argparse.Namespace(lr=1), "argparse.Namespace"), (np.float64(1.0), "numpy"), (Path("a"), "pathlib")],
    ids=["Namespace", "numpy", "path"],
)
def test_objects_beside_the_tensors_are_named_with_the_way_out(value: Any, name: str, tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "args": value}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"an object of {name}\S* beside its tensors.*weights_only=False"):
        open_tensors(tmp_path / "a.pth")
