"""Matching logits of pairs without padding, compared with one pair at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from albef_ds.config.schema import ComputeConfig
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.matching import PackedTexts, match_logits
from tests.tiny import tiny_model

CHOSEN = [[0, 3, 2], [6], [1, 2, 3, 4, 5, 6], [0, 0]]


@pytest.mark.parametrize(
    "compute",
    [
        ComputeConfig(),
        ComputeConfig(attention="sdpa"),
        ComputeConfig(attention="plain", packed_text=True),
        ComputeConfig(share_cross_kv=False),
        ComputeConfig(itm_cls_only=False),
    ],
)
@torch.no_grad()
def test_every_pair_has_the_logits_that_it_has_alone(compute: ComputeConfig) -> None:
    torch.manual_seed(0)
    albef, head = ALBEF(tiny_model(), compute).double().eval(), nn.Linear(16, 2).double()
    for module in (albef, head):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    lengths = torch.tensor([9, 2, 5, 5, 3, 7, 1])
    mask = torch.arange(9) < lengths[:, None]
    ids = torch.randint(1, 40, (7, 9)) * mask
    images, texts = albef.encode_image(torch.randn(4, 3, 16, 16)), albef.encode_text(ids, mask)
    expected = []
    for image, row in enumerate(CHOSEN):
        for text in row:
            item = FusionPass(texts[text : text + 1, : lengths[text]], mask[text : text + 1, : lengths[text]])
            [hidden] = albef.fuse(images[image : image + 1], [item])
            expected.append(head(hidden[:, 0])[0])
    found = match_logits(albef, head, images, PackedTexts.of(texts, mask), CHOSEN)
    # Measured at most 6e-8, the rounding to fp32.
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=0, atol=5e-7)
    assert torch.stack(expected).std(0).min() > 1e-3  # pairs differ by far more than the tolerance
