"""The BERT layers compared with transformers' BERT and with a literal post-norm reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from albef_ds.checkpoint.names import bert_name
from albef_ds.config.schema import ComputeConfig, TextConfig
from albef_ds.models.bert import MultimodalEncoder, TextEncoder, gather_tokens
from albef_ds.models.fusion_pass import FusionPass, split

TEXT = TextConfig(
    vocab_size=50, width=24, num_layers=3, num_fusion_layers=2, num_heads=3, intermediate_width=40, max_positions=16
)
IMAGE_WIDTH = 20


def _randomize(module: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def _texts(rows: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(1, 50, (rows, length), generator=generator)
    mask = torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=generator)
    return ids * mask, mask


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_text_encoder_equals_the_bert_of_transformers(attention: str) -> None:
    ours = TextEncoder(TEXT, ComputeConfig(attention=attention)).double().eval()
    _randomize(ours)
    stock = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=16,
        ),
        add_pooling_layer=False,
    )
    stock = stock.double().eval()
    weights = {bert_name(f"text_encoder.{name}", 3): value for name, value in ours.state_dict().items()}
    stock.load_state_dict({name: value for name, value in weights.items() if name is not None}, strict=True)
    ids, mask = _texts(4, 9)
    theirs = stock(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours(ids, mask)[mask], theirs[mask], rtol=0, atol=1e-12)


def _reference_attention(
    query: nn.Linear, key: nn.Linear, value: nn.Linear, hidden: Tensor, source: Tensor, mask: Tensor
) -> Tensor:
    """Attention of one row, head by head: (Q, D), (K, D'), bool (Q, K)."""
    heads = []
    for head in range(TEXT.num_heads):
        part = slice(8 * head, 8 * head + 8)
        q, k, v = query(hidden)[:, part], key(source)[:, part], value(source)[:, part]
        scores = q @ k.T / math.sqrt(8) + torch.where(mask, 0.0, -1e9)
        heads.append(torch.softmax(scores, dim=-1) @ v)
    return torch.cat(heads, dim=-1)


def _reference_fusion(encoder: MultimodalEncoder, text: Tensor, token_mask: Tensor, image: Tensor, causal: bool) -> Tensor:
    """Fuses one text (L, D) with its image (N, image width), sub-layer by sub-layer as the paper's figure 1 stacks them."""
    length = text.shape[0]
    mask = token_mask[None, :].expand(length, length)
    mask = mask & torch.ones(length, length, dtype=torch.bool).tril() if causal else mask
    everywhere = torch.ones(length, image.shape[0], dtype=torch.bool)
    hidden = text
    for layer in encoder.layers:
        own, cross, feed = layer.self_attention, layer.cross_attention, layer.feed_forward
        context = _reference_attention(own.query, own.key, own.value, hidden, hidden, mask)
        hidden = own.output.norm(hidden + own.output.dense(context))
        context = _reference_attention(cross.query, cross.key_value.key, cross.key_value.value, hidden, image, everywhere)
        hidden = cross.output.norm(hidden + cross.output.dense(context))
        hidden = feed.output.norm(hidden + feed.output.dense(F.gelu(feed.up(hidden))))
    return hidden


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("attention", "share", "positions_only", "one_call"), list(itertools.product(("sdpa", "plain"), *[(True, False)] * 3))
)
def test_multimodal_encoder_equals_a_literal_post_norm_reference(
    attention: str, share: bool, positions_only: bool, one_call: bool, causal: bool, packed: bool
) -> None:
    compute = ComputeConfig(
        attention=attention,
        share_cross_kv=share,
        itm_cls_only=positions_only,
        one_fusion_call=one_call,
        packed_text=packed,
    )
    encoder = MultimodalEncoder(TEXT, compute, IMAGE_WIDTH).double().eval()
    _randomize(encoder)
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(3, 5, IMAGE_WIDTH, generator=generator, dtype=torch.float64)
    text = torch.randn(6, 7, 24, generator=generator, dtype=torch.float64)
    _, mask = _texts(6, 7)
    index, positions = torch.tensor([2, 0, 2]), torch.tensor([[0, 1], [1, 0], [0, 0]])
    passes = [FusionPass(text[:3], mask[:3], causal=causal), FusionPass(text[3:], mask[3:], (index,), positions, causal)]
    plain, picked = encoder(images, passes)
    for row in range(3):
        expected = _reference_fusion(encoder, text[row], mask[row], images[row], causal)
        torch.testing.assert_close(plain[row][mask[row]], expected[mask[row]], rtol=0, atol=1e-12)
        expected = _reference_fusion(encoder, text[3 + row], mask[3 + row], images[index[row]], causal)
        torch.testing.assert_close(picked[row], expected[positions[row]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("one_call", [True, False])
def test_each_part_of_a_pass_meets_the_images_that_its_entry_names(one_call: bool, share: bool) -> None:
    encoder = MultimodalEncoder(TEXT, ComputeConfig(one_fusion_call=one_call, share_cross_kv=share), IMAGE_WIDTH).double().eval()
    _randomize(encoder)
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(5, 4, IMAGE_WIDTH, generator=generator, dtype=torch.float64)
    text = torch.randn(10, 7, 24, generator=generator, dtype=torch.float64)
    _, mask = _texts(10, 7)
    first, second = torch.tensor([4, 1]), torch.tensor([0, 0])
    # By number, the first two, other numbers, the first two again, two in the middle.
    meets = [4, 1, 0, 1, 0, 0, 0, 1, 2, 3]
    own = range(2)
    passes = [FusionPass(text[:4], mask[:4], (first, own)), FusionPass(text[4:], mask[4:], (second, own, range(2, 4)))]
    found = torch.cat(encoder(images, passes))
    for row, image in enumerate(meets):
        expected = _reference_fusion(encoder, text[row], mask[row], images[image], False)
        torch.testing.assert_close(found[row][mask[row]], expected[mask[row]], rtol=0, atol=1e-12)


def test_rows_that_are_no_equal_parts_are_refused() -> None:
    with pytest.raises(AssertionError, match="6 rows are not 4 equal parts"):
        split(torch.zeros(6, 2), 4)


def test_gathered_tokens_are_those_named() -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    got = gather_tokens(hidden, torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(got, torch.stack([hidden[0, [3, 0]], hidden[1, [1, 1]]]))


def _text_output(dropout: float, attention: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    config = TextConfig(vocab_size=50, width=24, num_layers=1, num_heads=3, intermediate_width=40, dropout=dropout)
    encoder = TextEncoder(config, ComputeConfig(attention=attention))
    ids, mask = _texts(4, 9)
    return encoder, lambda: encoder(ids, mask)


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_dropout_acts_in_training_only(attention: str) -> None:
    encoder, run = _text_output(0.5, attention)
    encoder.eval()
    assert torch.equal(run(), run())
    encoder.train()
    assert not torch.equal(run(), run())
    encoder, run = _text_output(0.0, attention)
    encoder.train()
    assert torch.equal(run(), run())


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_attention_weights_are_dropped_in_training(attention: str) -> None:
    encoder, run = _text_output(0.5, attention)
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert not torch.equal(run(), run())
