"""Image-text retrieval: recall@1/5/10 in both directions, by ITC similarity and after ITM re-ranking (paper section 4.1).

On pairs that the model was not trained on, this is zero-shot retrieval. Work is split by `over_ranks.py`, so every world size
gives the same numbers. Similarities are fp32; features are computed in the precision of the weights.

Not responsible for reading images and captions (`albef_ds.data`) or for ranks and ties (`ranking.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from xxhash import xxh3_128_digest

from albef_ds.common import comm
from albef_ds.common.errors import DataError
from albef_ds.common.progress import Progress, silent
from albef_ds.config.tasks import ItmScore
from albef_ds.data.text.distinct import DistinctTexts
from albef_ds.metrics.over_ranks import eval_mode, map_batches, map_rows
from albef_ds.metrics.ranking import DirectionScores, Ranking, recall
from albef_ds.metrics.shortlists import PairBatch, judge, pair_batches, rounds_of
from albef_ds.models.albef import ALBEF
from albef_ds.models.matching import PackedTexts, match_logits

RECALL_AT = (1, 5, 10)
K_TEST = 32
"""Candidates re-ranked per query during training. The paper takes 128 of Flickr30K's 1,000 images, 256 of COCO's 5,000."""
KEPT_BYTES = 1 << 30
"""Image tokens that one process keeps between similarities and re-ranking; with more it encodes the images again."""
SUFFIXES: dict[Ranking, str] = {"itc": "", "itm": "_itm", "itm_itc": "_itm_itc"}
"""End of a metric's name, by ranking."""


class RetrievalData(Protocol):
    """Images and captions; `albef_ds.data.evaluation_sets.corpus.RetrievalSet` is one."""

    caption_image: Tensor
    """int64 (num_captions,): image that each caption belongs to."""

    @property
    def num_images(self) -> int:
        """Number of images."""

    def images(self, rows: Sequence[int]) -> Tensor:
        """The images `rows`, float32 (len(rows), 3, H, W)."""

    def text_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all captions in batches of ids int64 (B, L) and mask bool (B, L)."""


@dataclass(frozen=True)
class RetrievalScores:
    """Both directions of one evaluation."""

    i2t: DirectionScores
    """Images as queries, captions as candidates."""
    t2i: DirectionScores
    """Captions as queries, images as candidates."""

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """The rankings for which there are scores."""
        return ("itc",) if self.i2t.margins is None else ("itc", "itm", "itm_itc")

    def metrics(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Yields (name, per cent): `PREFIX/i2t_r1` ... `PREFIX/t2i_r10` with a suffix per ranking and `_chance`; means; sizes."""
        directions = {"i2t": self.i2t, "t2i": self.t2i}
        for ranking in self.rankings:
            recalls = []
            for name, direction in directions.items():
                query_ranks = direction.ranks(ranking)
                for k in RECALL_AT:
                    recalls.append(recall(query_ranks, k))
                    yield f"{prefix}/{name}_r{k}{SUFFIXES[ranking]}", recalls[-1]
            yield f"{prefix}/mean_recall{SUFFIXES[ranking]}", sum(recalls) / len(recalls)
        for name, direction in directions.items():
            for k in RECALL_AT:
                yield f"{prefix}/{name}_r{k}_chance", direction.chance(k)
        yield f"{prefix}/num_images", float(self.i2t.similarity.shape[0])
        yield f"{prefix}/num_captions", float(self.i2t.similarity.shape[1])
        if self.i2t.shortlist is not None and self.t2i.shortlist is not None:
            yield f"{prefix}/k_test_i2t", float(self.i2t.shortlist.shape[1])
            yield f"{prefix}/k_test_t2i", float(self.t2i.shortlist.shape[1])


class RetrievalEvaluator:
    """Scores every image of `data` against every caption. All ranks construct and call it together.

    Args:
        albef: student or momentum model, on `device`.
        itm_head: linear head over the multimodal [CLS] with logits (no match, match); None: no re-ranking.
        data: images and captions, the same on every rank.
        device: where to compute.
        k_test: candidates re-ranked per query; 0: none; more than there are: all.
        batch_size: images or captions per forward pass.
        temperature: divides similarities in the ranking by ITM and ITC together.
        itm_score: `margin` or `match`, see `ContrastiveConfig.itm_score`.
        prefix: first part of the metrics' names.
        progress: called after every batch.

    Raises:
        DataError: an image without a caption.
    """

    def __init__(
        self,
        albef: ALBEF,
        itm_head: nn.Module | None,
        data: RetrievalData,
        device: torch.device,
        k_test: int = K_TEST,
        *,
        batch_size: int = 64,
        temperature: float = 0.07,
        itm_score: ItmScore = "margin",
        prefix: str = "retrieval",
        progress: Progress | None = None,
    ) -> None:
        captions = torch.bincount(data.caption_image, minlength=data.num_images)
        if bool((captions == 0).any()):
            raise DataError(f"image {int(captions.argmin())} of the evaluation has no caption: write the corpus without it")
        self.albef, self.itm_head, self.data, self.device = albef, itm_head, data, device
        self.k_test, self.batch_size, self.temperature, self.prefix = k_test, batch_size, temperature, prefix
        self.itm_score = itm_score
        self._progress: Progress = progress or silent

    def run(self) -> Iterator[tuple[str, float]]:
        """Yields (name, per cent) as `RetrievalScores.metrics` does, the same on every rank."""
        yield from self.score().metrics(self.prefix)

    @torch.no_grad()
    def score(self) -> RetrievalScores:
        """The scores behind the metrics, on `device`. Modules are in eval mode during the call."""
        with eval_mode(self.albef, *([self.itm_head] if self.itm_head else [])):
            reranks = self.k_test > 0 and self.itm_head is not None
            captions, text_feat, text_embeds = self._encoded_texts()
            first, image_feat, kept = self._encoded_images(keep=reranks)
            similarity = image_feat @ text_feat.t()
            owner = self.data.caption_image.to(self.device)
            own = torch.arange(self.data.num_images, device=self.device)
            i2t = DirectionScores(similarity, own, owner, self.temperature)
            t2i = DirectionScores(similarity.t(), owner, own, self.temperature)
            if not reranks:
                return RetrievalScores(i2t, t2i)
            return self._reranked(i2t, t2i, PackedTexts(text_embeds, captions.lengths), captions.number, first, kept)

    def _encoded_texts(self) -> tuple[DistinctTexts, Tensor, Tensor]:
        """The distinct captions, the features (T, D) of all captions, and the tokens of the distinct ones."""
        captions = DistinctTexts.of(self.data.text_batches(1024))

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            ids, mask = (part.to(self.device) for part in captions.padded(rows))
            embeds = self.albef.encode_text(ids, mask)
            return self.albef.project_text(embeds, mask).float(), embeds[mask]

        batches = torch.split(torch.arange(len(captions.ids)), self.batch_size)
        feat, embeds = map_batches(batches, compute, partial(self._progress, "captions"))
        return captions, feat[captions.number.to(self.device)], embeds

    def _encoded_images(self, keep: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Per image the first one with its pixels, int64 (N,) on the CPU, and its features; the blocks' tokens to `keep`.

        Tokens are kept on the CPU by one process while they fit. Ranks encode a block again, in the same batch, so the bits of
        every score are the same.
        """
        kept: list[Tensor] = []

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            images = self.data.images(rows.tolist())
            embeds = self.albef.encode_image(images.to(self.device))
            fits = keep and not comm.is_distributed() and embeds.nbytes * self.data.num_images <= KEPT_BYTES * len(rows)
            if fits:
                kept.append(embeds.cpu())
            hashes = [xxh3_128_digest(image.contiguous().view(torch.uint8).numpy()) for image in images]
            content = torch.frombuffer(bytearray(b"".join(hashes)), dtype=torch.int64).view(-1, 2)
            return self.albef.project_image(embeds).float(), content.to(self.device)

        feat, content = self._map_rows("images", self.data.num_images, self.batch_size, compute)
        known: dict[tuple[int, ...], int] = {}
        first = torch.tensor([known.setdefault(tuple(row), number) for number, row in enumerate(content.tolist())])
        return first, feat[first.to(self.device)], kept

    def _block(self, block: int) -> Tensor:
        """The tokens of one block of images, encoded in the same batch as at first."""
        size = min(self.batch_size, self.data.num_images)
        rows = torch.arange(block * size, (block + 1) * size).clamp(max=self.data.num_images - 1)
        return self.albef.encode_image(self.data.images(rows.tolist()).to(self.device))

    def _reranked(
        self,
        i2t: DirectionScores,
        t2i: DirectionScores,
        texts: PackedTexts,
        number: Tensor,
        first: Tensor,
        kept: list[Tensor],
    ) -> RetrievalScores:
        """Adds ITM scores for the shortlists of both directions.

        A pair on both lists is scored once, as are pairs of equal captions or equal images: they tie exactly.
        """
        itm_head = self.itm_head
        assert itm_head is not None
        for_image, for_text = i2t.nearest(self.k_test), t2i.nearest(self.k_test)
        num_texts = len(texts.lengths)
        wanted_i2t = first[:, None] * num_texts + number[for_image.cpu()]
        wanted_t2i = first[for_text.cpu()] * num_texts + number[:, None]
        pairs = torch.unique(torch.cat([wanted_i2t.flatten(), wanted_t2i.flatten()]))
        size = min(self.batch_size, self.data.num_images)
        # As many tokens as so many padded rows. Every image has at least K pairs, so a batch has few images.
        max_tokens = self.batch_size * min(4, for_image.shape[1]) * int(texts.lengths.max())

        def encode(block: int) -> Tensor:
            return kept[block].to(self.device) if kept else self._block(block)

        def compute(images: Tensor, batch: PairBatch) -> Tensor:
            places = torch.tensor([image % size for image in batch.images], device=self.device)
            return match_logits(self.albef, itm_head, images[places], texts, batch.texts)

        blocks = pair_batches(pairs // num_texts, pairs % num_texts, texts.lengths, size, max_tokens)
        rounds = rounds_of(blocks, size, comm.world_size())
        logits = judge(rounds, len(pairs), encode, compute, partial(self._progress, "pairs"))
        margins, match = logits[:, 1] - logits[:, 0], logits[:, 1]

        def scored(direction: DirectionScores, shortlist: Tensor, wanted: Tensor) -> DirectionScores:
            place = torch.searchsorted(pairs, wanted).to(self.device)
            score = match[place] if self.itm_score == "match" else None
            return replace(direction, shortlist=shortlist, margins=margins[place], match=score)

        return RetrievalScores(scored(i2t, for_image, wanted_i2t), scored(t2i, for_text, wanted_t2i))

    def _map_rows(self, stage: str, num_rows: int, size: int, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
        return map_rows(num_rows, size, compute, self.device, partial(self._progress, stage))
