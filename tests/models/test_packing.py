"""Packing removes padding, and unpacking restores it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from albef_ds.config.schema import ComputeConfig, TextConfig
from albef_ds.models.bert import TextEncoder
from albef_ds.models.packing import Packing, packed, unpacked

CPU = torch.device("cpu")
MASK = torch.tensor([[True, True, False, False], [True, False, False, False], [True, True, True, True]])
CONFIG = TextConfig(vocab_size=50, width=32, num_layers=2, num_fusion_layers=1, num_heads=2, intermediate_width=128, dropout=0.0)


def test_tokens_come_back_to_their_places_and_padding_is_zero() -> None:
    hidden = torch.randn(3, 4, 5)
    packing = Packing.of(MASK)
    tokens = packed(hidden, packing)
    assert torch.equal(tokens, hidden[MASK])
    assert torch.equal(unpacked(tokens, packing), hidden * MASK[..., None])
    assert packed(hidden, None) is hidden and unpacked(hidden, None) is hidden


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_embeddings_and_gradients_are_those_of_padded_rows_for_the_tokens_share_of_the_products(attention: str) -> None:
    ids = torch.arange(1, 13).reshape(3, 4) * MASK
    results = []
    for pack in (False, True):
        torch.manual_seed(0)
        encoder = TextEncoder(CONFIG, ComputeConfig(attention=attention, packed_text=pack)).double()
        with FlopCounterMode(display=False) as counter:
            embeds = encoder(ids, MASK)
        embeds[MASK].square().sum().backward()
        products = counter.get_flop_counts()["Global"][torch.ops.aten.addmm]
        results.append((embeds[MASK], encoder.layers[0].feed_forward.up.weight.grad, products))  # type: ignore[union-attr]
    (embeds, gradient, products), (same_embeds, same_gradient, fewer) = results
    torch.testing.assert_close(same_embeds, embeds, rtol=0, atol=1e-12)
    torch.testing.assert_close(same_gradient, gradient, rtol=0, atol=1e-10)
    assert fewer * MASK.numel() == products * int(MASK.sum())


def test_modules_stay_whole() -> None:
    """The setting changes no parameter, so a file fits both settings."""
    names = [list(nn.Module.state_dict(TextEncoder(CONFIG, ComputeConfig(packed_text=pack)))) for pack in (False, True)]
    assert names[0] == names[1]


def test_a_packing_of_lengths_is_that_of_their_mask_and_names_the_tokens_of_each_length() -> None:
    lengths = MASK.sum(dim=1).tolist()
    packing, expected = Packing.of_lengths([*lengths, 2], CPU), Packing.of(torch.cat([MASK, MASK[:1]]))
    assert torch.equal(packing.index, expected.index) and (packing.rows, packing.length) == (4, 4)
    found = [(rows.tolist(), tokens.tolist()) for rows, tokens in packing.by_length]
    assert found == [([1], [[2]]), ([0, 3], [[0, 1], [7, 8]]), ([2], [[3, 4, 5, 6]])]
    assert Packing.of_lengths(lengths, torch.device("meta")).by_length == ()
