"""The page of what retrieval gets wrong names the queries, what was found instead and the pairs with the largest loss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.evaluation import failures
from albef_ds.evaluation.failures import pair_losses, write_failures
from albef_ds.metrics.ranking import DirectionScores
from albef_ds.metrics.retrieval import RetrievalScores

OWNERS = [0, 0, 1, 2]
SIMILARITY = torch.tensor([[0.9, 0.1, 0.2, 0.95], [0.3, 0.8, 0.7, 0.0], [0.1, 0.2, 0.3, 0.4]])


class Data:
    """Three images and four captions."""

    caption_image = torch.tensor(OWNERS)
    captions = ("a <b>red</b> cup", "the cup", "two dogs", "a beach")
    keys = ('"0".jpg', "1.jpg", "2.jpg")
    num_images = 3

    def __init__(self) -> None:
        self.read: list[int] = []

    def images(self, rows: Sequence[int]) -> Tensor:
        self.read += rows
        return torch.zeros(len(rows), 3, 8, 8)


def _scores(margins: Tensor | None = None) -> RetrievalScores:
    own, images = torch.tensor(OWNERS), torch.arange(3)
    short = (torch.arange(4).expand(3, 4), margins) if margins is not None else (None, None)
    reverse = (torch.arange(3).expand(4, 3), margins.t()) if margins is not None else (None, None)
    return RetrievalScores(
        DirectionScores(SIMILARITY, images, own, 0.1, *short), DirectionScores(SIMILARITY.t(), own, images, 0.1, *reverse)
    )


def test_failed_queries_are_shown_with_what_was_found(tmp_path: Path) -> None:
    data = Data()
    assert write_failures(tmp_path / "page.html", "T & T", data, _scores(), 10) == 2 + 2  # type: ignore[arg-type]
    page = (tmp_path / "page.html").read_text()
    assert "<h1>T &amp; T</h1>" in page and 'alt="&quot;0&quot;.jpg"' in page
    assert "<b>" not in page and page.count("data:image/jpeg") >= 8
    assert "2 of 4" in page and "2 of 3" in page and "by</dt><dd>ITC" in page
    texts = re.findall(r'<p class="query">([^<]*)</p>(.*?)</section>', page)
    assert [text for text, _ in texts] == ["the cup", "a beach"], "the worst first"
    for (_, figures), place in zip(texts, (3, 2), strict=True):
        assert '<figure class="right"><img alt="' in figures and f"right: place {place}" in figures
    captions = [re.findall("<figcaption>([^<]*)<", figures) for _, figures in texts]
    red = "a &lt;b&gt;red&lt;/b&gt; cup"
    assert captions == [["right: place 3", "1. two dogs", "2. a beach"], ["right: place 2", f"1. {red}", "3. two dogs"]]
    images = re.findall(r"<section><figure>(?:(?!</section>).)*best right text: place 2.*?</section>", page)
    assert [re.findall(r"<li>([^<]*)</li>", image)[0] for image in images] == ["a beach", "the cup"]
    first = re.findall(r"<li( class=right)?>([^<]*)</li>", images[0].partition("</ol>")[0])
    right = " class=right"
    assert first == [("", "a beach"), (right, red), ("", "two dogs"), (right, "the cup")]
    losses = re.findall(r"<figcaption>([\d.]+): ", page.partition("largest contrastive loss")[2])
    assert len(losses) == 4 and losses == sorted(losses, key=float, reverse=True) and float(losses[0]) > float(losses[-1])
    assert len(data.read) == len(set(data.read)), "each image is read once"


def test_itm_orders_where_there_is_one_and_the_limit_holds(tmp_path: Path) -> None:
    margins = torch.where(torch.arange(3)[:, None] == torch.tensor(OWNERS), 5.0, -5.0)
    assert write_failures(tmp_path / "page.html", "T", Data(), _scores(margins), 1) == 0  # type: ignore[arg-type]
    assert write_failures(tmp_path / "page.html", "T", Data(), _scores(-margins), 1) == 7  # type: ignore[arg-type]
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="query"') == page.count("best right text: place") == 1
    assert len(re.findall(r"<figcaption>[\d.]+: ", page)) == 1
    assert "4 of 4" in page and "by</dt><dd>ITM" in page


def test_a_page_does_not_grow_with_the_number_or_the_length_of_texts(tmp_path: Path) -> None:
    data = Data()
    data.captions, data.caption_image = (*["x\ud800 & y" * 500] * 40, "two dogs", "a beach"), torch.tensor([0] * 40 + [1, 2])  # type: ignore[assignment]
    similarity = torch.zeros(3, 42)
    similarity[0, 40] = 1.0
    scores = RetrievalScores(
        DirectionScores(similarity, torch.arange(3), data.caption_image, 0.1, None, None),
        DirectionScores(similarity.t(), data.caption_image, torch.arange(3), 0.1, None, None),
    )
    write_failures(tmp_path / "page.html", "T", data, scores, 3)  # type: ignore[arg-type]
    page = (tmp_path / "page.html").read_text()
    assert max(own.count("<li") for own in re.findall("<ul>(.*?)</ul>", page)) == 10 + 1 and "and 30 more" in page
    assert max(map(len, re.findall("x[^<]*", page.partition("</h1>")[2]))) < 1000 and "x? &amp; y" in page


@pytest.mark.parametrize("block", [2, 1024])
def test_the_loss_of_a_pair_is_that_of_both_directions(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_BLOCK", block)
    losses = pair_losses(_scores().i2t)
    logits = SIMILARITY / 0.1
    for text, image in enumerate(OWNERS):
        others = [other for other in range(4) if OWNERS[other] != image or other == text]
        row = F.cross_entropy(logits[image, others][None], torch.tensor([others.index(text)]))
        column = F.cross_entropy(logits[:, text][None], torch.tensor([image]))
        assert float(losses[text]) == pytest.approx(float(row + column) / 2, abs=1e-5)
