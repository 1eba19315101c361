"""Encoders filled from files as timm, DeiT and transformers write them; and every file that does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel

from albef_ds.checkpoint.initial.encoders import load_mlm_head, load_text_encoder, load_visual_encoder
from albef_ds.common.errors import WeightsError
from albef_ds.config.schema import ComputeConfig, ModelConfig, TextConfig, VisionConfig
from albef_ds.models.albef import ALBEF
from albef_ds.models.heads import MLMHead

VISION = VisionConfig(image_size=32, patch_size=8, width=16, depth=2, num_heads=2)
TEXT = TextConfig(
    vocab_size=40, width=16, num_layers=2, num_fusion_layers=2, num_heads=2, intermediate_width=32, max_positions=12
)


def albef(vision: VisionConfig = VISION, text: TextConfig = TEXT) -> ALBEF:
    return ALBEF(ModelConfig(vision=vision, text=text, embed_dim=8), ComputeConfig()).eval()


def randomised(module: torch.nn.Module) -> Any:
    """Every parameter random, so that a swapped pair of tensors shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    return module.eval()


def vit(cls: Any = VisionTransformer, image_size: int = 32, **arguments: Any) -> Any:
    return randomised(cls(img_size=image_size, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5, **arguments))


def bert(cls: Any = BertModel, layers: int = 4, width: int = 16) -> Any:
    shape = BertConfig(
        vocab_size=40, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, layer_norm_eps=1e-12,
    )  # fmt: skip
    return randomised(cls(shape))


def own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


TOKENS = torch.tensor([[2, 7, 9, 30], [2, 5, 0, 0]])


# --- visual encoder ---


@pytest.mark.parametrize("form", ["bare.pth", "wrapped.pt", "weights.safetensors", "folder"])
def test_visual_encoder_computes_what_timm_computes(tmp_path: Path, form: str) -> None:
    source, model, path = vit(), albef(), tmp_path / form
    if form == "folder":
        path.mkdir()
        save_file(own(source.state_dict()), path / "model.safetensors")
    elif form.endswith(".safetensors"):
        save_file(own(source.state_dict()), path)
    else:
        torch.save({"model": source.state_dict()} if form.startswith("wrapped") else source.state_dict(), path)
    report = load_visual_encoder(model, path)
    torch.testing.assert_close(model.encode_image(images()), source.forward_features(images()), atol=1e-5, rtol=0)
    assert report.share_of_parameters == 1.0 and report.tensors == len(source.state_dict()) - 2
    assert set(report.left_over_allowed) == {"head.weight", "head.bias"} and not report.missing_allowed
    assert "\n" not in str(report) and "100.0%" in str(report) and "head.weight" in str(report)


def test_position_table_of_another_image_size_is_resampled_and_said(tmp_path: Path) -> None:
    torch.save(vit(image_size=48).state_dict(), tmp_path / "vit.pth")
    report = load_visual_encoder(albef(), tmp_path / "vit.pth")
    assert "from 6 x 6 to 4 x 4" in str(report)


def test_resampling_keeps_the_class_row_and_a_constant_table(tmp_path: Path) -> None:
    state = vit(image_size=48).state_dict()
    state["pos_embed"][:, 0], state["pos_embed"][:, 1:] = 3.0, 5.0
    torch.save(state, tmp_path / "vit.pth")
    model = albef()
    load_visual_encoder(model, tmp_path / "vit.pth")
    table = model.visual_encoder.embed.pos_embed
    torch.testing.assert_close(table[:, :1], torch.full((1, 1, 16), 3.0))
    torch.testing.assert_close(table[:, 1:], torch.full((1, 16, 16), 5.0))


def test_distillation_token_of_deit_is_left_out_with_its_position(tmp_path: Path) -> None:
    source = vit(VisionTransformerDistilled)
    state = source.state_dict()
    torch.save({"model": state}, tmp_path / "deit.pth")
    model = albef()
    report = load_visual_encoder(model, tmp_path / "deit.pth")
    table = model.visual_encoder.embed.pos_embed
    assert torch.equal(table[:, 0], state["pos_embed"][:, 0]) and torch.equal(table[:, 1:], state["pos_embed"][:, 2:])
    assert "dist_token" in report.left_over_allowed and "head_dist.weight" in report.left_over_allowed


def test_vit_of_another_depth_or_width_is_refused_by_tensor_name(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"lacks 12 tensors .*visual_encoder\.blocks\.2\.norm1\.weight"):
        load_visual_encoder(albef(replace(VISION, depth=3)), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"12 tensors without a place .*blocks\.1\.norm1\.weight"):
        load_visual_encoder(albef(replace(VISION, depth=1)), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"has shape \(1, 1, 16\), .*cls_token in the model \(1, 1, 32\)"):
        load_visual_encoder(albef(replace(VISION, width=32)), tmp_path / "vit.pth")


def test_refused_file_changes_no_weight(tmp_path: Path) -> None:
    state = vit().state_dict()
    state["norm.weight"] = torch.zeros(17)
    torch.save(state, tmp_path / "vit.pth")
    model = albef()
    before = own(model.state_dict())
    with pytest.raises(WeightsError, match=r"norm\.weight has shape \(17,\)"):
        load_visual_encoder(model, tmp_path / "vit.pth")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- text and multimodal encoder ---


@pytest.mark.parametrize("form", ["plain", "prefixed", "old norm names", "half precision"])
def test_text_encoder_computes_the_lower_half_of_bert(tmp_path: Path, form: str) -> None:
    source, model, path = bert(), albef(), tmp_path / "bert.bin"
    state = own(source.state_dict())
    if form == "prefixed":
        state = {f"bert.{name}": tensor for name, tensor in state.items()}
    if form == "old norm names":
        rename = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, old in rename.items():
            state = {name.replace(new, old): tensor for name, tensor in state.items()}
        state["embeddings.position_ids"] = torch.arange(12)[None]
    if form == "half precision":
        state = {name: tensor.half() for name, tensor in state.items()}
    torch.save(state, path)
    report = load_text_encoder(model, path)
    mask = TOKENS > 0
    expected = source(TOKENS, attention_mask=mask.long(), output_hidden_states=True).hidden_states[2]
    tolerance = 5e-3 if form == "half precision" else 1e-5
    torch.testing.assert_close(model.encode_text(TOKENS, mask)[mask], expected[mask], atol=tolerance, rtol=0)
    assert all(".cross_attention." in name for name in report.missing_allowed) and len(report.missing_allowed) == 2 * 10
    assert model.text_encoder.embeddings.word.weight.dtype == torch.float32


def test_multimodal_layer_i_is_the_berts_layer_above_the_text_encoder(tmp_path: Path) -> None:
    source, model = bert(), albef()
    torch.save(source.state_dict(), tmp_path / "bert.bin")
    load_text_encoder(model, tmp_path / "bert.bin")
    hidden, mask = torch.randn(2, 4, 16), torch.ones(2, 1, 1, 4, dtype=torch.bool)
    for number, layer in enumerate(model.multimodal_encoder.layers):
        expected = source.encoder.layer[2 + number](hidden)
        expected = expected[0] if isinstance(expected, tuple) else expected
        ours = layer.feed_forward(layer.self_attention(hidden, mask))  # type: ignore[operator, union-attr]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("depth", "said"), [(2, "none of the multimodal"), (3, "only the first 1 of 2")])
def test_shallow_bert_fills_what_it_can_and_the_report_says_so(tmp_path: Path, depth: int, said: str) -> None:
    torch.save(bert(layers=depth).state_dict(), tmp_path / "bert.bin")
    report = load_text_encoder(albef(), tmp_path / "bert.bin")
    assert said in str(report) and report.share_of_parameters < 0.9
    whole_layers = [name for name in report.missing_allowed if "cross_attention" not in name]
    assert len(whole_layers) == 16 * (4 - depth) and all("multimodal" in name for name in whole_layers)


def test_bert_without_the_text_encoders_layers_or_with_too_many_is_refused(tmp_path: Path) -> None:
    torch.save(bert(layers=1).state_dict(), tmp_path / "shallow.bin")
    with pytest.raises(WeightsError, match=r"lacks .*text_encoder\.layers\.1.* the file has 1 layers"):
        load_text_encoder(albef(), tmp_path / "shallow.bin")
    torch.save(bert(layers=5).state_dict(), tmp_path / "deep.bin")
    with pytest.raises(WeightsError, match=r"16 tensors without a place .*encoder\.layer\.4\."):
        load_text_encoder(albef(), tmp_path / "deep.bin")


def test_hole_within_a_multimodal_layer_is_refused(tmp_path: Path) -> None:
    state = bert(layers=4).state_dict()
    del state["encoder.layer.2.output.dense.bias"]
    torch.save(state, tmp_path / "bert.bin")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors .*multimodal_encoder\.layers\.0\.feed_forward\.output\.dense\.bias"):
        load_text_encoder(albef(), tmp_path / "bert.bin")


def test_bert_of_another_width_or_vocabulary_is_refused(tmp_path: Path) -> None:
    torch.save(bert(width=32).state_dict(), tmp_path / "bert.bin")
    with pytest.raises(WeightsError, match=r"word_embeddings\.weight has shape \(40, 32\), .*\(40, 16\)"):
        load_text_encoder(albef(), tmp_path / "bert.bin")


def test_mlm_head_computes_transformers_logits(tmp_path: Path) -> None:
    source, model = bert(BertForMaskedLM), albef()
    head = MLMHead(TEXT, model.text_encoder.embeddings.word)
    torch.save(source.state_dict(), tmp_path / "bert.bin")
    load_text_encoder(model, tmp_path / "bert.bin")
    report = load_mlm_head(head, tmp_path / "bert.bin")
    hidden = torch.randn(3, 16)
    torch.testing.assert_close(head(hidden), source.cls(hidden), atol=1e-5, rtol=0)
    assert report.tensors == 5 and report.share_of_parameters == 1.0


def test_mlm_head_stays_random_without_one_and_refuses_an_untied_or_partial_one(tmp_path: Path) -> None:
    head = MLMHead(TEXT, albef().text_encoder.embeddings.word)
    torch.save(bert().state_dict(), tmp_path / "headless.bin")
    report = load_mlm_head(head, tmp_path / "headless.bin")
    assert report.tensors == 0 and "dense.weight" in report.missing_allowed

    state = own(bert(BertForMaskedLM).state_dict())
    torch.save(state | {"cls.predictions.decoder.weight": torch.zeros(40, 16)}, tmp_path / "untied.bin")
    with pytest.raises(WeightsError, match="ties them"):
        load_mlm_head(head, tmp_path / "untied.bin")
    del state["cls.predictions.transform.dense.bias"]
    torch.save(state, tmp_path / "partial.bin")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors .*dense\.bias"):
        load_mlm_head(head, tmp_path / "partial.bin")


# --- files ---


class _Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_file_that_would_run_code_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"norm.weight": torch.ones(1), "x": _Trap(tmp_path / "sprung")}, tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_visual_encoder(albef(), tmp_path / "vit.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_truncated_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    state = own(vit().state_dict())
    if name.endswith("pth"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:3000])
    with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
        load_visual_encoder(albef(), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_unusable_paths_are_named_with_the_fix(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "no.pth", "does not exist: download"),
        (tmp_path, r"holds neither model\.safetensors nor pytorch_model\.bin"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_visual_encoder(albef(), path)
    (tmp_path / "vit.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"vit\.onnx is not one of \.safetensors"):
        load_visual_encoder(albef(), tmp_path / "vit.onnx")
    torch.save({"norm.weight": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match=r"more than tensors \(epoch\)"):
        load_visual_encoder(albef(), tmp_path / "mixed.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_visual_encoder(albef(), tmp_path / "list.pth")
