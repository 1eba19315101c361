"""Pretraining: ITC + MLM + ITM with momentum distillation (paper sections 3.2 and 3.3)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds import comm
from albef_ds.config.schema import ComputeConfig, ModelConfig, PretrainConfig
from albef_ds.errors import ConfigError
from albef_ds.losses.contrastive import contrastive_loss
from albef_ds.losses.masked_language import masked_language_loss
from albef_ds.losses.sampling import gumbel, hashed_uniform, sample_negatives
from albef_ds.models.albef import ALBEF
from albef_ds.models.bert import FusionPass, init_bert_weights
from albef_ds.models.heads import MLMHead
from albef_ds.models.text_cache import TextCache
from albef_ds.queue import FeatureQueue
from albef_ds.task import Losses, Metrics, Task
from albef_ds.types import ImageTextBatch

# Tags keep the streams of random numbers apart.
_TEXT_FOR_IMAGE, _IMAGE_FOR_TEXT, _UNIFORM_DRAW = 1, 2, 3


@dataclass(frozen=True)
class _MaskedTokens:
    """Where MLM predicts. Hidden states come per `positions`; `chosen` picks the masked ones among them."""

    positions: Tensor | None
    """int64 (B, Q): masked positions of each row first, then fillers; None: all L positions."""
    chosen: Tensor
    """bool (B, Q) or (B, L)."""
    labels: Tensor
    """int64 (M,), row by row."""

    @classmethod
    def of(cls, mlm_labels: Tensor, only_masked: bool) -> _MaskedTokens:
        """From labels (B, L); `only_masked` asks for no other position's hidden state."""
        masked = mlm_labels >= 0
        if not only_masked:
            return cls(None, masked, mlm_labels[masked])
        widest = max(int(masked.sum(dim=1).max()), 1)
        positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :widest]
        return cls(positions, masked.gather(1, positions), mlm_labels[masked])


@dataclass(frozen=True)
class _Candidates:
    """What a batch is contrasted with: this rank's samples, or with `gather_negatives` all ranks'."""

    own: Tensor
    """int64 (B,): column of each row's own pair."""
    image_ids: Tensor
    caption_ids: Tensor
    positions: Tensor
    image_feat_m: Tensor
    text_feat_m: Tensor


class PretrainTask(Task):
    """`base`: the model and its MLM head, both with a momentum copy; beside it the ITM head and the temperature."""

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: PretrainConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.compute = compute
        self.seed = seed
        albef = ALBEF(model, compute)
        self.base = nn.ModuleDict({"albef": albef, "mlm_head": MLMHead(model.text, albef.text_encoder.embeddings.word)})
        self.itm_head = nn.Linear(model.text.width, 2)
        init_bert_weights(self.itm_head)
        # Shape (1,): 0-dim parameters crash DeepSpeed's initialisation.
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))
        self.outside["queue"] = FeatureQueue(
            config.queue_size, model.embed_dim, start_filled=config.compat or not config.mask_unfilled_queue
        )
        self._text_cache = TextCache(albef.encode_text, compute.cached_texts) if compute.cached_texts else None
        self._pending: list[list[Tensor]] = []

    @property
    def model(self) -> ALBEF:
        """The student."""
        albef = self.base["albef"]
        assert isinstance(albef, ALBEF)
        return albef

    @property
    def mlm_head(self) -> MLMHead:
        """The student's MLM head."""
        head = self.base["mlm_head"]
        assert isinstance(head, MLMHead)
        return head

    @property
    def queue(self) -> FeatureQueue:
        """The feature queue."""
        queue: FeatureQueue = self.outside["queue"]
        return queue

    def schedule(self, epoch: float) -> dict[str, float]:
        """alpha rises linearly over `alpha_ramp_epochs`; random negatives fall over `itm_random_epochs`."""
        config = self.config
        ramp = min(1.0, epoch / config.alpha_ramp_epochs) if config.alpha_ramp_epochs > 0 else 1.0
        fall = max(0.0, 1.0 - epoch / config.itm_random_epochs) if config.itm_random_epochs > 0 else 1.0
        return {"alpha": config.alpha * ramp, "random_negatives": config.itm_random_negatives * fall}

    def forward(self, batch: ImageTextBatch, *, alpha: float, random_negatives: float = 0.0) -> tuple[Losses, Metrics]:
        """Losses `itc`, `mlm`, `itm` of one micro-batch, and metrics.

        Args:
            batch: B pairs.
            alpha: weight of the momentum model's pseudo-targets.
            random_negatives: share of ITM negatives drawn uniformly.

        Raises:
            ConfigError: image-text matching is trained and the batch has one pair, so no negative.
        """
        albef, config = self.model, self.config
        if config.gather_negatives:
            # A batch is padded to its own longest text; texts of all ranks meet only at one length.
            batch = batch.padded_to(comm.max_over_ranks(batch.token_ids.shape[1], batch.token_ids.device))
        image_embeds = albef.encode_image(batch.images)
        text_embeds, masked_embeds = self._encode_texts(batch)
        tokens = _MaskedTokens.of(batch.mlm_labels, self.compute.mlm_masked_only)
        image_feat, text_feat = albef.project_image(image_embeds), albef.project_text(text_embeds, batch.token_mask)
        candidates, momentum_logits = self._momentum_pass(batch, tokens, alpha, text_embeds, masked_embeds)

        itc, sim_i2t, sim_t2i = self._contrast(batch, image_feat, text_feat, candidates, alpha)
        texts, images = self._draw_negatives(batch, candidates, sim_i2t, sim_t2i, random_negatives)
        itm_logits, mlm_hidden = self._fuse(batch, tokens, image_embeds, text_embeds, masked_embeds, texts, images)
        mlm, num_masked = self._predict_words(tokens, mlm_hidden, momentum_logits, alpha)

        itm_labels = torch.zeros(itm_logits.shape[0], dtype=torch.int64, device=itm_logits.device)
        itm_labels[: len(batch)] = 1
        itm = F.cross_entropy(itm_logits, itm_labels)
        losses = {"itc": itc, "mlm": mlm, "itm": itm}
        with torch.no_grad():
            metrics = {
                "itm_accuracy": (itm_logits.argmax(1) == itm_labels).double().mean(),
                "itc_accuracy": (sim_i2t.argmax(1) == candidates.own).double().mean(),
                "temperature": self.temperature.detach().double().mean(),
                "masked_tokens": num_masked.double(),
            }
        return losses, metrics

    def _encode_texts(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, D) of the clean and of the masked text."""
        encode = self._text_cache or self.model.encode_text
        if not self.compute.one_fusion_call:
            return encode(batch.token_ids, batch.token_mask), encode(batch.masked_ids, batch.token_mask)
        both = encode(torch.cat([batch.token_ids, batch.masked_ids]), batch.token_mask.repeat(2, 1))
        clean, masked = both.chunk(2)
        return clean, masked

    @torch.no_grad()
    def _momentum_pass(
        self, batch: ImageTextBatch, tokens: _MaskedTokens, alpha: float, text_embeds: Tensor, masked_embeds: Tensor
    ) -> tuple[_Candidates, Tensor | None]:
        """The momentum model's features of the clean pair and its logits at the masked positions."""
        twin = self.momentum.modules["albef"]
        assert isinstance(twin, ALBEF)
        # A copy kept in fp32 beside a student cast to bf16 computes in bf16 as well: they may share frozen weights.
        cast = twin.vision_proj.weight.dtype.itemsize > text_embeds.dtype.itemsize
        with torch.autocast(text_embeds.device.type, text_embeds.dtype) if cast else contextlib.nullcontext():
            image_embeds = twin.encode_image(batch.images)
            if twin.text_encoder is self.model.text_encoder:  # frozen, hence shared: the embeddings are the student's
                twin_text, twin_masked = text_embeds.detach(), masked_embeds.detach()
            elif alpha > 0.0:
                ids = torch.cat([batch.token_ids, batch.masked_ids])
                twin_text, twin_masked = twin.encode_text(ids, batch.token_mask.repeat(2, 1)).chunk(2)
            else:
                twin_text, twin_masked = twin.encode_text(batch.token_ids, batch.token_mask), None
            image_feat, text_feat = twin.project_image(image_embeds), twin.project_text(twin_text, batch.token_mask)
            momentum_logits = None
            if alpha > 0.0 and twin_masked is not None:
                [hidden] = twin.fuse(image_embeds, [FusionPass(twin_masked, batch.token_mask, positions=tokens.positions)])
                momentum_logits = self._vocabulary_logits(self.momentum.modules["mlm_head"], hidden, tokens)
        local = [batch.image_ids, batch.caption_ids, batch.positions, image_feat, text_feat]
        own = torch.arange(len(batch), device=image_feat.device)
        self._pending.append(local)
        if self.config.gather_negatives:
            local = [comm.all_gather(part) for part in local]
            own = own + comm.rank() * len(batch)
        return _Candidates(own, *local), momentum_logits

    def _contrast(
        self, batch: ImageTextBatch, image_feat: Tensor, text_feat: Tensor, candidates: _Candidates, alpha: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ITC loss and the student's logits against the candidates (B, K), image to text and text to image."""
        queue_images, queue_texts, queue_image_ids, queue_caption_ids = self.queue.contents()
        dtype = image_feat.dtype
        image_keys = torch.cat([candidates.image_feat_m, queue_images.to(dtype)])
        text_keys = torch.cat([candidates.text_feat_m, queue_texts.to(dtype)])
        positives = torch.zeros(len(batch), image_keys.shape[0], dtype=torch.bool, device=image_feat.device)
        positives[torch.arange(len(batch), device=positives.device), candidates.own] = True
        if self._knows_positives:
            positives |= batch.image_ids[:, None] == torch.cat([candidates.image_ids, queue_image_ids])
            positives |= batch.caption_ids[:, None] == torch.cat([candidates.caption_ids, queue_caption_ids])
        temperature = self.temperature.to(dtype)
        i2t, sim_i2t = contrastive_loss(
            image_feat, candidates.image_feat_m[candidates.own], text_keys, positives, temperature, alpha
        )
        t2i, sim_t2i = contrastive_loss(
            text_feat, candidates.text_feat_m[candidates.own], image_keys, positives, temperature, alpha
        )
        count = candidates.positions.numel()
        return (i2t + t2i) / 2, sim_i2t[:, :count].detach(), sim_t2i[:, :count].detach()

    @property
    def _knows_positives(self) -> bool:
        return self.config.mask_known_positives and not self.config.compat

    @torch.no_grad()
    def _draw_negatives(
        self, batch: ImageTextBatch, candidates: _Candidates, sim_i2t: Tensor, sim_t2i: Tensor, random_share: float
    ) -> tuple[Tensor, Tensor]:
        """A hard negative text for each image and image for each text, as candidate columns int64 (B,)."""
        if candidates.positions.numel() < 2 and self.config.itm_weight > 0.0:
            raise ConfigError(
                "train.micro_batch_size of 1 leaves image-text matching without a negative: use 2 or more, "
                "or task.gather_negatives=true on several ranks"
            )
        allowed = torch.ones_like(sim_i2t, dtype=torch.bool)
        allowed[torch.arange(len(batch), device=allowed.device), candidates.own] = False
        if self._knows_positives:
            allowed &= batch.image_ids[:, None] != candidates.image_ids
            allowed &= batch.caption_ids[:, None] != candidates.caption_ids
        return (
            self.draw(sim_i2t, allowed, candidates.own, batch.positions, candidates.positions, random_share, _TEXT_FOR_IMAGE),
            self.draw(sim_t2i, allowed, candidates.own, batch.positions, candidates.positions, random_share, _IMAGE_FOR_TEXT),
        )

    def draw(
        self, sim: Tensor, allowed: Tensor, own: Tensor, rows: Tensor, columns: Tensor, random_share: float, tag: int
    ) -> Tensor:
        """Draw one allowed column per row of `sim` (B, K), keyed by the samples' positions `rows` (B,) and `columns` (K,)."""
        tags = torch.tensor(tag, device=sim.device)
        noise = gumbel(hashed_uniform(self.seed, rows[:, None], columns[None, :], tags))
        if random_share > 0.0:
            uniform = hashed_uniform(self.seed, rows, tags, torch.tensor(_UNIFORM_DRAW, device=sim.device)) < random_share
            sim = torch.where(uniform[:, None], torch.zeros_like(sim), sim)
        return sample_negatives(sim, allowed, own, noise)

    def _fuse(
        self,
        batch: ImageTextBatch,
        tokens: _MaskedTokens,
        image_embeds: Tensor,
        text_embeds: Tensor,
        masked_embeds: Tensor,
        negative_texts: Tensor,
        negative_images: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """ITM logits (3B, 2), fp32 or better, and MLM hidden states (B, Q, D) at `tokens.positions`."""
        mask = batch.token_mask
        images, all_texts, all_masks = image_embeds, text_embeds, mask
        own = torch.arange(len(batch), device=mask.device)
        if self.config.gather_negatives and comm.is_distributed():
            all_texts, all_masks = comm.all_gather_with_grad(text_embeds), comm.all_gather(mask)
            # Only the drawn images join the own ones: projecting every rank's would cost world_size times as much.
            images = torch.cat([image_embeds, comm.all_gather_with_grad(image_embeds)[negative_images]])
            negative_images = own + len(batch)
        # Without an index a pass meets the images as they are, which saves copying their keys and values.
        index = None if images is image_embeds else own
        cls = torch.zeros(len(batch), 1, dtype=torch.int64, device=mask.device)
        positive = FusionPass(text_embeds, mask, index, cls)
        negatives = FusionPass(
            torch.cat([text_embeds, all_texts[negative_texts]]),
            torch.cat([mask, all_masks[negative_texts]]),
            torch.cat([negative_images, own]),
            cls.repeat(2, 1),
        )
        masked = FusionPass(masked_embeds, mask, index, tokens.positions)
        on_positive, on_negative, on_masked = self.model.fuse(images, [positive, negatives, masked])
        itm_logits = self.itm_head(torch.cat([on_positive, on_negative])[:, 0])
        return itm_logits if itm_logits.dtype.itemsize >= 4 else itm_logits.float(), on_masked

    def _vocabulary_logits(self, head: nn.Module, hidden: Tensor, tokens: _MaskedTokens) -> Tensor:
        """(M, V) at the masked tokens; the plain form computes every position's logits first, as released."""
        logits: Tensor = head(hidden[tokens.chosen]) if self.compute.mlm_masked_only else head(hidden)[tokens.chosen]
        return logits

    def _predict_words(
        self, tokens: _MaskedTokens, hidden: Tensor, momentum_logits: Tensor | None, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """MLM loss and the number of masked tokens of this rank."""
        logits = self._vocabulary_logits(self.base["mlm_head"], hidden, tokens)
        total = masked_language_loss(logits, tokens.labels, momentum_logits, alpha)
        num_masked = tokens.chosen.sum()
        divisor = num_masked.to(total.dtype)
        if self.config.gather_negatives:
            # One rank would divide by the tokens of the whole batch; data-parallel averaging divides by the ranks again.
            divisor = comm.all_reduce_sum(divisor.clone()) / comm.world_size()
        return total / divisor.clamp(min=1.0), num_masked

    def loss_weights(self) -> dict[str, float]:
        """As configured; the paper's are 1."""
        return {"itc": self.config.itc_weight, "mlm": self.config.mlm_weight, "itm": self.config.itm_weight}

    def after_step(self) -> None:
        """Enqueue the momentum features of the step, all ranks', in sample order."""
        image_ids, caption_ids, positions, images, texts = (
            comm.all_gather(torch.cat(parts)) for parts in zip(*self._pending, strict=True)
        )
        self._pending.clear()
        self.queue.enqueue(images, texts, image_ids, caption_ids, positions)

    def after_skipped_step(self) -> None:
        """Forget the features of the step."""
        self._pending.clear()

    def bounded_parameters(self) -> list[tuple[nn.Parameter, float, float]]:
        """The temperature."""
        return [(self.temperature, self.config.temperature_min, self.config.temperature_max)]
