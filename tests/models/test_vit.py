"""The visual encoder compared with timm's ViT."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer

from albef_ds.checkpoint.names import timm_name
from albef_ds.config.schema import ComputeConfig, VisionConfig
from albef_ds.models.vit import Block, VisualEncoder

SHAPE = VisionConfig(image_size=16, patch_size=8, width=24, depth=2, num_heads=3, mlp_ratio=2.0)


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_visual_encoder_equals_timm(attention: str) -> None:
    ours = VisualEncoder(SHAPE, ComputeConfig(attention=attention)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    stock = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=0, global_pool=""
    ).double()
    weights = {timm_name(f"visual_encoder.{name}"): value for name, value in ours.state_dict().items()}
    stock.load_state_dict({name: value for name, value in weights.items() if name is not None}, strict=True)
    images = torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours(images), stock.eval()(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("precision", "attention"), [("fp32", "plain"), ("bf16", "plain"), ("bf16", "sdpa"), ("fp32", "sdpa")])
def test_a_block_and_its_gradients_equal_timms_to_the_bit(precision: str, attention: str) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    torch.manual_seed(0)
    ours = Block(SHAPE).to(dtype)
    theirs = TimmBlock(24, 3, 2.0, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)).to(dtype)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.attn.fused_attn = theirs.attn.fused_attn = attention == "sdpa"
    tokens = torch.randn(2, 5, 24).to(dtype)
    for block in (ours, theirs):
        block.output = block(tokens)  # type: ignore[assignment]
        block.output.float().square().sum().backward()  # type: ignore[operator]
    assert torch.equal(ours.output, theirs.output)  # type: ignore[arg-type]
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad), name  # type: ignore[arg-type]


def test_attention_setting_reaches_the_blocks() -> None:
    images = torch.zeros(1, 3, 16, 16)
    for setting, fused in (("sdpa", True), ("plain", False)):
        encoder = VisualEncoder(SHAPE, ComputeConfig(attention=setting))
        encoder(images)
        assert [block.attn.fused_attn for block in encoder.blocks] == [fused, fused]


@pytest.mark.parametrize("patch_size", [2, 8, 16])
def test_convolution_stem_gives_one_token_per_patch(patch_size: int) -> None:
    config = VisionConfig(image_size=32, patch_size=patch_size, width=48, depth=1, num_heads=3, stem="convolution")
    encoder = VisualEncoder(config, ComputeConfig())
    images = torch.randn(2, 3, 32, 32)
    assert encoder(images).shape == (2, config.num_tokens, 48) == (2, (32 // patch_size) ** 2 + 1, 48)
    # Tokens keep their place: what changes in one corner moves the corner's own token most before attention mixes them.
    changed = images.clone()
    changed[:, :, -patch_size:, -patch_size:] += 5.0
    moved = (encoder.embed(changed) - encoder.embed(images)).norm(dim=-1)
    assert (moved.argmax(dim=1) == config.num_tokens - 1).all()


def test_images_of_another_precision_are_taken() -> None:
    encoder = VisualEncoder(SHAPE, ComputeConfig()).bfloat16()
    assert encoder(torch.zeros(1, 3, 16, 16)).dtype == torch.bfloat16
