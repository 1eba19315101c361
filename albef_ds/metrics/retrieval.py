"""Image-text retrieval: recall@1/5/10 in both directions, by ITC similarity and after ITM re-ranking (paper section 4.1).

The model need not have been trained on the corpus: on held-out pairs this is zero-shot retrieval. The work is cut into
batches whose content does not depend on the number of ranks and dealt out to them, so every world size gets the
same numbers; a rank that runs out computes a row again, since every rank must enter the same collectives (sharded weights
are gathered in forward passes). Similarities are fp32; features come in the precision of the weights.

Not responsible for reading pictures and captions (`albef_ds.data`) or for ranks and ties (`ranking.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from albef_ds.common.errors import DataError
from albef_ds.common.progress import Progress, silent
from albef_ds.metrics.over_ranks import deal, eval_mode
from albef_ds.metrics.ranking import DirectionScores, Ranking, recall
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass

RECALL_AT = (1, 5, 10)
K_TEST = 32
"""Candidates re-ranked per query during training. The paper takes 128 of Flickr30K's 1,000 images, 256 of COCO's 5,000."""
SUFFIXES: dict[Ranking, str] = {"itc": "", "itm": "_itm", "itm_itc": "_itm_itc"}
"""What a metric's name ends with, by ranking."""


class RetrievalData(Protocol):
    """Pictures and captions; `albef_ds.data.evaluation_sets.corpus.RetrievalSet` is one."""

    caption_image: Tensor
    """int64 (num_captions,): the picture each caption belongs to."""

    @property
    def num_images(self) -> int:
        """Pictures."""

    def images(self, rows: Sequence[int]) -> Tensor:
        """The pictures `rows`, float32 (len(rows), 3, H, W)."""

    def text_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All captions in batches of ids int64 (B, L) and mask bool (B, L)."""


@dataclass(frozen=True)
class RetrievalScores:
    """Both directions of one evaluation."""

    i2t: DirectionScores
    """Pictures ask, captions answer."""
    t2i: DirectionScores
    """Captions ask, pictures answer."""

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """What the candidates can be ordered by."""
        return ("itc",) if self.i2t.margins is None else ("itc", "itm", "itm_itc")

    def metrics(self, prefix: str) -> Iterator[tuple[str, float]]:
        """(name, per cent): `PREFIX/i2t_r1` ... `PREFIX/t2i_r10` with a suffix per ranking and `_chance`; their means; sizes."""
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
    """Scores every picture of `data` against every caption. All ranks construct and run it together.

    Args:
        albef: the model, student or momentum copy; on `device`.
        itm_head: linear head over the multimodal [CLS]: (no match, match) logits. None: nothing is re-ranked.
        data: pictures and captions, the same on every rank.
        device: where to compute.
        k_test: candidates per query that the multimodal encoder judges; more than there are means all, 0 none.
        batch_size: pictures or captions per forward pass.
        temperature: that of the similarities, for the ranking by ITM and ITC together.
        prefix: first part of the metrics' names.
        progress: told about every batch.

    Raises:
        DataError: a picture without a caption.
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
        prefix: str = "retrieval",
        progress: Progress | None = None,
    ) -> None:
        captions = torch.bincount(data.caption_image, minlength=data.num_images)
        if bool((captions == 0).any()):
            raise DataError(f"picture {int(captions.argmin())} of the evaluation has no caption: write the corpus without it")
        self.albef, self.itm_head, self.data, self.device = albef, itm_head, data, device
        self.k_test, self.batch_size, self.temperature = k_test, batch_size, temperature
        self.prefix = prefix
        self._progress: Progress = progress or silent

    def run(self) -> Iterator[tuple[str, float]]:
        """(name, per cent) as in `RetrievalScores.metrics`, the same on every rank."""
        yield from self.score().metrics(self.prefix)

    @torch.no_grad()
    def score(self) -> RetrievalScores:
        """The scores behind the metrics, on `device`. Modules are in eval mode meanwhile, then as they were."""
        with eval_mode(self.albef, *([self.itm_head] if self.itm_head else [])):
            ids, mask = self._tokens()
            text_feat, text_embeds = self._text_features(ids, mask)
            [image_feat] = self._sharded("pictures", self.data.num_images, self.batch_size, self._image_features)
            similarity = image_feat @ text_feat.t()
            owner = self.data.caption_image.to(self.device)
            own = torch.arange(self.data.num_images, device=self.device)
            i2t = DirectionScores(similarity, own, owner, self.temperature)
            t2i = DirectionScores(similarity.t(), owner, own, self.temperature)
            if self.k_test <= 0 or self.itm_head is None:
                return RetrievalScores(i2t, t2i)
            return self._judged(i2t, t2i, text_embeds, mask, self.itm_head)

    def _tokens(self) -> tuple[Tensor, Tensor]:
        """All captions, ids (T, L) and mask (T, L). One length for all: equal captions then get equal features."""
        batches = list(self.data.text_batches(1024))
        length = max(ids.shape[1] for ids, _ in batches)
        padded = [[nn.functional.pad(part, (0, length - part.shape[1])) for part in batch] for batch in batches]
        ids, mask = (torch.cat(parts).to(self.device) for parts in zip(*padded, strict=True))
        return ids, mask

    def _text_features(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            embeds = self.albef.encode_text(ids[rows], mask[rows])
            return self.albef.project_text(embeds, mask[rows]).float(), embeds

        feat, embeds = self._sharded("captions", ids.shape[0], self.batch_size, compute)
        return feat, embeds

    def _image_features(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (self.albef.project_image(self._encode_images(rows)).float(),)

    def _encode_images(self, rows: Tensor) -> Tensor:
        return self.albef.encode_image(self.data.images(rows.tolist()).to(self.device))

    def _judged(
        self, i2t: DirectionScores, t2i: DirectionScores, text_embeds: Tensor, mask: Tensor, itm_head: nn.Module
    ) -> RetrievalScores:
        """ITM margins for the shortlists of both directions.

        A pair that is on both lists is judged once. Pairs are grouped by picture, so a batch encodes its few pictures
        anew and projects their keys and values once; no rank ever holds the tokens of all pictures.
        """
        for_image, for_text = i2t.nearest(self.k_test), t2i.nearest(self.k_test)
        num_texts = mask.shape[0]
        wanted_i2t = i2t.query_image[:, None] * num_texts + for_image
        wanted_t2i = for_text * num_texts + torch.arange(num_texts, device=self.device)[:, None]
        pairs = torch.unique(torch.cat([wanted_i2t.flatten(), wanted_t2i.flatten()]))

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            pictures, place = torch.unique(pairs[rows] // num_texts, return_inverse=True)
            texts = pairs[rows] % num_texts
            cls = torch.zeros(len(rows), 1, dtype=torch.int64, device=self.device)
            item = FusionPass(text_embeds[texts], mask[texts], (place,), cls)
            [hidden] = self.albef.fuse(self._encode_images(pictures), [item])
            logits = itm_head(hidden[:, 0]).float()
            return (logits[:, 1] - logits[:, 0],)

        # Every picture has at least K pairs, so a batch meets about `batch_size` pictures at most.
        size = self.batch_size * min(4, for_image.shape[1])
        [margins] = self._sharded("pairs", pairs.numel(), size, compute)
        judged = [margins[torch.searchsorted(pairs, wanted)] for wanted in (wanted_i2t, wanted_t2i)]
        return RetrievalScores(
            replace(i2t, shortlist=for_image, margins=judged[0]), replace(t2i, shortlist=for_text, margins=judged[1])
        )

    def _sharded(self, stage: str, num_rows: int, size: int, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
        return deal(num_rows, size, compute, self.device, lambda done, total: self._progress(stage, done, total))
