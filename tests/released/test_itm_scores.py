"""The score by which the released code re-ranks candidates with ITM.

Source: `evaluation` in Retrieval.py of the released code (b9727e4): `score = itm_head(...)[:, 1]`, the logit of "match", for the
`k_test` most similar candidates; all others stay at -100. The default here is the margin of the two logits, see
benchmarks/itm_score.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import ClassificationConfig, PretrainConfig, RetrievalConfig
from albef_ds.evaluation.protocols import as_released
from albef_ds.metrics.retrieval import RetrievalEvaluator
from albef_ds.models.fusion_pass import FusionPass
from tests.metrics.test_retrieval import Pairs, model

K_TEST = 4


@torch.no_grad()
def _released(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """`score_matrix_i2t` and `score_matrix_t2i` as there, one pair at a time."""
    albef, head = model()
    albef.eval()
    data = Pairs()
    matrices = []
    for sims, swapped in ((similarity, False), (similarity.t(), True)):
        matrix = torch.full(sims.shape, -100.0)
        for query, row in enumerate(sims):
            for candidate in row.topk(K_TEST).indices.tolist():
                image, text = (candidate, query) if swapped else (query, candidate)
                tokens = torch.tensor([data.tokens[text]])
                mask = torch.ones_like(tokens, dtype=torch.bool)
                embeds = albef.encode_image(data.pixels[image : image + 1])
                [hidden] = albef.fuse(embeds, [FusionPass(albef.encode_text(tokens, mask), mask)])
                matrix[query, candidate] = head(hidden[:, 0])[0, 1]
        matrices.append(matrix)
    return matrices[0], matrices[1]


def test_match_orders_candidates_as_the_released_code() -> None:
    albef, head = model()
    scores = RetrievalEvaluator(albef, head, Pairs(), torch.device("cpu"), K_TEST, itm_score="match").score()
    for ours, theirs in zip((scores.i2t, scores.t2i), _released(scores.i2t.similarity), strict=True):
        best = theirs.topk(K_TEST).values  # not the indices: some of the captions are equal
        torch.testing.assert_close(theirs.gather(1, ours.top("itm", K_TEST)), best)
        torch.testing.assert_close(ours.scores("itm").topk(K_TEST).values.float(), best)


def test_the_margin_is_another_order() -> None:
    """The departure: were it the same order, the test above would not tell the two apart."""
    albef, head = model()
    margin = RetrievalEvaluator(albef, head, Pairs(), torch.device("cpu"), K_TEST).score()
    match = RetrievalEvaluator(albef, head, Pairs(), torch.device("cpu"), K_TEST, itm_score="match").score()
    assert margin.i2t.top("itm", 1).tolist() != match.i2t.top("itm", 1).tolist()
    assert margin.i2t.top("itm_itc", 4).tolist() == match.i2t.top("itm_itc", 4).tolist()


@pytest.mark.parametrize("settings", [PretrainConfig, RetrievalConfig], ids=lambda settings: settings.__name__)
def test_compat_and_named_protocols_take_the_released_score(settings: type[PretrainConfig | RetrievalConfig]) -> None:
    assert (settings().ranking_score, settings(compat=True).ranking_score) == ("margin", "match")
    config = replace(get_recipe("debug"), task=settings())
    released = as_released(config).task
    assert isinstance(released, settings) and released.ranking_score == "match"
    assert as_released(replace(config, task=ClassificationConfig())).task == ClassificationConfig()  # refused later, by its kind
