"""The base of pretraining and retrieval: ITC with momentum features and a queue, ITM with hard negatives (paper section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.common import comm
from albef_ds.common.errors import ConfigError
from albef_ds.common.row_exchange import RowExchange
from albef_ds.config.schema import ComputeConfig, ModelConfig
from albef_ds.config.tasks import ContrastiveConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.models.albef import ALBEF
from albef_ds.models.feature_queue import FeatureQueue
from albef_ds.models.fusion_pass import FusionPass, ImageIndex
from albef_ds.models.losses.contrastive import consistency_loss
from albef_ds.models.losses.false_negatives import likely_false, probability_against_own
from albef_ds.models.losses.negatives import gumbel, hashed_uniform, sample_negatives
from albef_ds.models.losses.wide import wide_losses
from albef_ds.models.precision import at_least_fp32
from albef_ds.tasks.base import Metrics, Task, albef_of
from albef_ds.tasks.false_negatives import Contrast, LikelyFalse, of_drawn
from albef_ds.tasks.side_stream import SideStream

# Tags make the streams of random numbers independent.
_TEXT_FOR_IMAGE, _IMAGE_FOR_TEXT, _UNIFORM_DRAW, _LIKELY = 1, 2, 3, 4
_NO_LABEL = -100


@dataclass(frozen=True)
class Candidates:
    """The samples that a batch is contrasted with: this rank's, or with `gather_negatives` those of all ranks."""

    own: Tensor
    """int64 (B,): column of each row's own pair."""
    image_ids: Tensor
    caption_ids: Tensor
    positions: Tensor
    image_feat_m: Tensor
    text_feat_m: Tensor


class ContrastiveTask(Task):
    """`base["albef"]` has a momentum copy; ITM head, temperature and queue have none."""

    def __init__(
        self, model: ModelConfig, compute: ComputeConfig, config: ContrastiveConfig, seed: int, *, start_filled: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.compute = compute
        self.seed = seed
        self.base = nn.ModuleDict(self.distilled_modules(model, compute))
        self.itm_head = nn.Linear(model.text.width, 2)
        # Shape (1,): 0-dim parameters crash DeepSpeed's initialisation.
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))
        self.attach_queue(FeatureQueue(config.queue_size, model.embed_dim, start_filled=start_filled))
        self.wide_losses = wide_losses(compute)
        self._pending: list[list[Tensor]] = []

    def distilled_modules(self, model: ModelConfig, compute: ComputeConfig) -> dict[str, nn.Module]:
        """Returns new modules for `base`, which get a momentum copy."""
        return {"albef": ALBEF(model, compute)}

    def schedule(self, epoch: float) -> dict[str, float]:
        """Returns alpha, rising linearly over `alpha_ramp_epochs`, and random negatives, falling over `itm_random_epochs`."""
        return {"alpha": self.config.alpha_at(epoch), "random_negatives": self.config.random_negatives_at(epoch)}

    @property
    def queue(self) -> FeatureQueue:
        """See `Task.queue`."""
        queue = super().queue
        assert queue is not None
        return queue

    def same_length(self, batch: ImageTextBatch, *counts: int) -> tuple[ImageTextBatch, list[int]]:
        """Returns the batch and `counts`; if ranks exchange texts, padded to their longest text and summed over ranks."""
        if not self.config.gather_negatives:
            return batch, list(counts)
        (lengths, *others) = zip(
            *comm.all_gather_numbers([batch.token_ids.shape[1], *counts], batch.token_ids.device), strict=True
        )
        return batch.padded_to(max(lengths)), [sum(column) for column in others]

    def side_stream(self, batch: ImageTextBatch) -> SideStream:
        """Returns the stream of the momentum model, by `compute.momentum_stream`; make it before the student's work."""
        return SideStream(batch.images.device, self.compute.momentum_stream)

    def momentum_images(self, momentum: ALBEF, side: SideStream, images: Tensor, student_embeds: Tensor) -> Tensor:
        """Returns the momentum model's embeddings (B, N, width) of images (B, 3, H, W).

        A frozen image encoder is shared with the student, so `student_embeds` are returned.
        """
        if momentum.visual_encoder is self.model.visual_encoder:
            side.follow()
            return student_embeds
        return momentum.encode_image(images)

    def momentum_texts(
        self, momentum: ALBEF, side: SideStream, token_ids: list[Tensor], token_mask: Tensor, student_embeds: list[Tensor]
    ) -> list[Tensor]:
        """Returns the momentum model's embeddings (B, L, D) of texts (B, L) with one mask.

        A frozen text encoder is shared with the student, so `student_embeds` are returned.
        """
        if momentum.text_encoder is self.model.text_encoder:
            side.follow()
            return student_embeds
        count = len(token_ids)
        return list(momentum.encode_text(torch.cat(token_ids), token_mask.repeat(count, 1)).chunk(count))

    @torch.no_grad()
    def gather_candidates(self, batch: ImageTextBatch, image_feat_m: Tensor, text_feat_m: Tensor) -> Candidates:
        """Returns the candidates for `batch` from this rank's momentum features (B, E), and keeps them for the queue."""
        local = [batch.image_ids, batch.caption_ids, batch.positions, image_feat_m, text_feat_m]
        own = torch.arange(len(batch), device=image_feat_m.device)
        if self.config.gather_negatives:
            local = comm.all_gather_together(local)
            own = own + comm.rank() * len(batch)
        self._pending.append(local)
        return Candidates(own, *local)

    @property
    def fuses_momentum(self) -> bool:
        """True if the momentum model's ITM judges the drawn negatives, which needs its embeddings."""
        return self.config.false_negatives != "off" and self.config.false_negatives_by == "itm"

    def contrast_and_draw(
        self,
        batch: ImageTextBatch,
        image_feat: Tensor,
        text_feat: Tensor,
        candidates: Candidates,
        schedule: tuple[float, float],
        embeds_m: tuple[Tensor, Tensor] | None,
    ) -> Contrast:
        """Returns the ITC loss and the negatives of ITM, with what `task.false_negatives` makes of the likely false ones.

        Args:
            batch: B pairs.
            image_feat: the student's features (B, E).
            text_feat: likewise.
            candidates: what they are contrasted with.
            schedule: alpha, and the share of negatives drawn uniformly.
            embeds_m: the momentum model's embeddings of images (B, N, width) and texts (B, L, D), if `fuses_momentum`.
        """
        alpha, random_share = schedule
        config, likely = self.config, None
        if embeds_m is None:
            likely = self._likely_by_itc(batch, candidates) if config.false_negatives != "off" else None
            itc, sim_i2t, sim_t2i = self.contrast(batch, image_feat, text_feat, candidates, alpha, likely)
            texts, images = self.draw_negatives(batch, candidates, sim_i2t, sim_t2i, random_share, likely)
            return Contrast(itc, sim_i2t, texts, images, likely and likely.at(texts, images))
        sim_i2t, sim_t2i = self._similarities(image_feat, text_feat, candidates)
        texts, images = self.draw_negatives(batch, candidates, sim_i2t, sim_t2i, random_share)
        likely = self._likely_by_itm(batch, candidates, embeds_m, texts, images)
        itc, sim_i2t, _ = self.contrast(batch, image_feat, text_feat, candidates, alpha, likely)
        return Contrast(itc, sim_i2t, texts, images, likely)

    def contrast(
        self,
        batch: ImageTextBatch,
        image_feat: Tensor,
        text_feat: Tensor,
        candidates: Candidates,
        alpha: float,
        likely: LikelyFalse | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the ITC loss and the student's logits against the candidates (B, K), image to text and text to image."""
        queue_images, queue_texts, queue_image_ids, queue_caption_ids = self.queue.contents()
        dtype = image_feat.dtype
        image_keys = torch.cat([candidates.image_feat_m, queue_images.to(dtype)])
        text_keys = torch.cat([candidates.text_feat_m, queue_texts.to(dtype)])
        positives = torch.zeros(len(batch), image_keys.shape[0], dtype=torch.bool, device=image_feat.device)
        positives[torch.arange(len(batch), device=positives.device), candidates.own] = True
        if self.knows_positives:
            positives |= batch.image_ids[:, None] == torch.cat([candidates.image_ids, queue_image_ids])
        if self.knows_positives and not self.config.compat:  # the released fine-tuning compares images only
            positives |= batch.caption_ids[:, None] == torch.cat([candidates.caption_ids, queue_caption_ids])
        temperature = self.temperature.to(dtype)
        image_feat_m, text_feat_m = candidates.image_feat_m[candidates.own], candidates.text_feat_m[candidates.own]
        count = candidates.positions.numel()

        def one_way(features: Tensor, features_m: Tensor, keys: Tensor, false: Tensor | None) -> tuple[Tensor, Tensor]:
            known, excluded = positives, None
            if false is not None and likely is not None and likely.are_positives:
                known = positives | false
            elif false is not None:
                excluded = false & ~positives
            loss = self.wide_losses.contrastive
            found, sim = loss(features, features_m, keys, known, temperature, alpha, count, excluded)
            if self.config.itc_smoothing > 0.0:
                everything = torch.ones_like(positives) if excluded is None else ~excluded
                even, _ = loss(features, features_m, keys, everything, temperature, 0.0, count, excluded)
                found = (1.0 - self.config.itc_smoothing) * found + self.config.itc_smoothing * even
            return found, sim

        false = (None, None) if likely is None else (likely.i2t, likely.t2i)
        i2t, sim_i2t = one_way(image_feat, image_feat_m, text_keys, false[0])
        t2i, sim_t2i = one_way(text_feat, text_feat_m, image_keys, false[1])
        itc = (i2t + t2i) / 2
        if self.config.itc_consistency > 0.0:
            with torch.autocast(image_feat.device.type, enabled=False):
                logits = (image_feat @ candidates.text_feat_m.T, text_feat @ candidates.image_feat_m.T)
                itc = itc + self.config.itc_consistency * consistency_loss(*(one / temperature for one in logits))
        return itc, sim_i2t, sim_t2i

    @torch.no_grad()
    def _similarities(self, image_feat: Tensor, text_feat: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Returns the student's logits against the candidates (B, K), as `contrast` does."""
        with torch.autocast(image_feat.device.type, enabled=False):
            temperature = self.temperature.to(image_feat.dtype)
            return image_feat @ candidates.text_feat_m.T / temperature, text_feat @ candidates.image_feat_m.T / temperature

    @torch.no_grad()
    def _likely_by_itc(self, batch: ImageTextBatch, candidates: Candidates) -> LikelyFalse:
        """Returns the candidates and queue entries that the momentum model's ITC takes for matching."""
        queue_images, queue_texts, queue_image_ids, queue_caption_ids = self.queue.contents()
        own_images, own_texts = candidates.image_feat_m[candidates.own], candidates.text_feat_m[candidates.own]
        temperature, found = self.temperature.to(own_images.dtype), []
        for tag, own, keys, queue, queue_ids in (
            (_TEXT_FOR_IMAGE, own_images, candidates.text_feat_m, queue_texts, queue_caption_ids),
            (_IMAGE_FOR_TEXT, own_texts, candidates.image_feat_m, queue_images, queue_image_ids),
        ):
            with torch.autocast(own.device.type, enabled=False):
                logits = own @ torch.cat([keys, queue.to(keys.dtype)]).T / temperature
            columns = torch.cat([candidates.positions, queue_ids])
            uniform = hashed_uniform(self.seed, batch.positions[:, None], columns[None, :], tag, _LIKELY)
            probability = probability_against_own(logits, candidates.own)
            likely = likely_false(probability, self.config.false_negative_threshold, uniform)
            found.append(likely.scatter(1, candidates.own[:, None], False))
        return LikelyFalse(found[0], found[1], None, self.config.false_negatives == "positive")

    @torch.no_grad()
    def _likely_by_itm(
        self, batch: ImageTextBatch, candidates: Candidates, embeds_m: tuple[Tensor, Tensor], texts: Tensor, images: Tensor
    ) -> LikelyFalse:
        """Returns the drawn negatives that the momentum model's fusion and the ITM head take for matching."""
        gathered, _, negatives = self.matching_passes(batch, *embeds_m, texts, images)
        with self.momentum_modules(embeds_m[1]) as modules:
            [hidden] = albef_of(modules).fuse(gathered, [negatives])
            logits = at_least_fp32(self.itm_head(hidden[:, 0].to(embeds_m[1].dtype)))
        rows, columns = batch.positions, (candidates.positions[images], candidates.positions[texts])
        uniform = torch.cat([hashed_uniform(self.seed, rows, column, tag, _LIKELY) for tag, column in enumerate(columns)])
        drawn = likely_false(F.softmax(logits, dim=-1)[:, 1], self.config.false_negative_threshold, uniform)
        keys = candidates.positions.numel() + self.queue.filled
        return of_drawn(len(batch), keys, texts, images, drawn, self.config.false_negatives == "positive")

    @property
    def knows_positives(self) -> bool:
        """True if samples with the same image or caption are positives of each other."""
        return self.config.mask_known_positives

    @torch.no_grad()
    def draw_negatives(
        self,
        batch: ImageTextBatch,
        candidates: Candidates,
        sim_i2t: Tensor,
        sim_t2i: Tensor,
        random_share: float,
        likely: LikelyFalse | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws a hard negative text for each image and image for each text, as candidate columns int64 (B,)."""
        if candidates.positions.numel() < 2 and self.config.itm_weight > 0.0:
            raise ConfigError(
                "train.micro_batch_size of 1 leaves image-text matching without a negative: use 2 or more, "
                "or task.gather_negatives=true on several ranks"
            )
        allowed = torch.ones_like(sim_i2t, dtype=torch.bool)
        allowed[torch.arange(len(batch), device=allowed.device), candidates.own] = False
        if self.knows_positives:
            allowed &= batch.image_ids[:, None] != candidates.image_ids
        if self.knows_positives and not self.config.compat:
            allowed &= batch.caption_ids[:, None] != candidates.caption_ids
        count = candidates.positions.numel()
        texts, images = (allowed, allowed) if likely is None else (allowed & ~one[:, :count] for one in (likely.i2t, likely.t2i))
        where = (candidates.own, batch.positions, candidates.positions, random_share)
        return self.draw(sim_i2t, texts, *where, _TEXT_FOR_IMAGE), self.draw(sim_t2i, images, *where, _IMAGE_FOR_TEXT)

    def draw(
        self, sim: Tensor, allowed: Tensor, own: Tensor, rows: Tensor, columns: Tensor, random_share: float, tag: int
    ) -> Tensor:
        """Draws one allowed column per row of `sim` (B, K) with noise keyed by sample positions `rows` (B,), `columns` (K,)."""
        noise = gumbel(hashed_uniform(self.seed, rows[:, None], columns[None, :], tag))
        if random_share > 0.0:
            uniform = hashed_uniform(self.seed, rows, tag, _UNIFORM_DRAW) < random_share
            sim = torch.where(uniform[:, None], torch.zeros_like(sim), sim)
        return sample_negatives(sim, allowed, own, noise)

    def matching_passes(
        self, batch: ImageTextBatch, image_embeds: Tensor, text_embeds: Tensor, negative_texts: Tensor, negative_images: Tensor
    ) -> tuple[Tensor, FusionPass, FusionPass]:
        """Returns the images and ITM's passes over them with output at [CLS]: B true pairs, then 2B pairs with a negative."""
        mask = batch.token_mask
        images = image_embeds
        own: ImageIndex = None
        drawn: ImageIndex = negative_images
        if self.config.gather_negatives and comm.is_distributed():
            other_texts, other_masks, other_images = self._fetch(mask, image_embeds, text_embeds, negative_texts, negative_images)
            images = torch.cat([image_embeds, other_images])
            own, drawn = range(len(batch)), range(len(batch), 2 * len(batch))
        else:
            other_texts, other_masks = text_embeds[negative_texts], mask[negative_texts]
        cls = torch.zeros(len(batch), 1, dtype=torch.int64, device=mask.device)
        positive = FusionPass(text_embeds, mask, (own,), cls)
        negatives = FusionPass(
            torch.cat([text_embeds, other_texts]),
            torch.cat([mask, other_masks]),
            (drawn, own),
            cls.repeat(2, 1),
        )
        return images, positive, negatives

    @staticmethod
    def _fetch(
        mask: Tensor, image_embeds: Tensor, text_embeds: Tensor, negative_texts: Tensor, negative_images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the drawn texts (B, L, D), their masks (B, L) and the drawn images (B, N, width) of all ranks.

        Only drawn rows travel and are kept: to gather all of them would cost as many times as much as there are ranks.
        """
        drawn = comm.all_gather_together([negative_texts, negative_images, mask])
        texts, images = (RowExchange(one.view(comm.world_size(), len(mask)), comm.rank(), mask.device) for one in drawn[:2])
        return texts.fetch(text_embeds), drawn[2][negative_texts], images.fetch(image_embeds)

    def matching_loss(self, on_positive: Tensor, on_negative: Tensor, likely: LikelyFalse | None = None) -> tuple[Tensor, Tensor]:
        """Returns the ITM loss of fused [CLS] states (B, 1, D) and (2B, 1, D), and its accuracy over the given labels.

        Of the negatives, `likely` false ones become matches, or have no part in the loss.
        """
        logits = at_least_fp32(self.itm_head(torch.cat([on_positive, on_negative])[:, 0]))
        labels = torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device)
        labels[: on_positive.shape[0]] = 1
        accuracy = (logits.detach().argmax(1) == labels).double().mean()
        if likely is not None and likely.drawn is not None:
            labels[on_positive.shape[0] :][likely.drawn] = 1 if likely.are_positives else _NO_LABEL
        return F.cross_entropy(logits, labels, ignore_index=_NO_LABEL), accuracy

    @torch.no_grad()
    def contrastive_metrics(self, sim_i2t: Tensor, candidates: Candidates, likely: LikelyFalse | None = None) -> Metrics:
        """Returns accuracy of ITC and temperature, and the share of negatives taken for false ones, for the log."""
        found = {
            "itc_accuracy": (sim_i2t.argmax(1) == candidates.own).double().mean(),
            "temperature": self.temperature.detach().double().mean(),
        }
        if likely is not None:
            looked_at = torch.stack([likely.i2t, likely.t2i]) if likely.drawn is None else likely.drawn
            found["false_negatives"] = looked_at.double().mean()
        return found

    def loss_weights(self) -> dict[str, float]:
        """Returns the configured weights; the paper's are 1."""
        return {"itc": self.config.itc_weight, "itm": self.config.itm_weight}

    def after_step(self) -> None:
        """Enqueues the momentum features of the step from all ranks, in sample order.

        They travel while the next step begins: whoever reads `queue` first waits for them.
        """
        features = [torch.cat(parts) for parts in zip(*self._pending, strict=True)]
        self._pending.clear()
        queue = self.queue

        def enqueue(features: list[Tensor]) -> None:
            image_ids, caption_ids, positions, images, texts = features
            queue.enqueue(images, texts, image_ids, caption_ids, positions)

        if self.config.gather_negatives:  # the candidates are those of all ranks
            enqueue(features)
            return
        arrived = comm.start_all_gather_together(features)
        self._arriving = lambda: enqueue(arrived())

    def after_skipped_step(self) -> None:
        """Discards the features of the step."""
        self._pending.clear()

    def bounded_parameters(self) -> list[tuple[nn.Parameter, float, float]]:
        """Returns the temperature with its bounds."""
        return [(self.temperature, self.config.temperature_min, self.config.temperature_max)]
