"""Visual question answering: a decoder generates the answer from the fused question (paper section 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef_ds.config.schema import ComputeConfig, ModelConfig, VqaConfig
from albef_ds.data.batch import Batch, VqaBatch
from albef_ds.models.albef import ALBEF
from albef_ds.models.answers import generate_answers, rank_answers, search_answers
from albef_ds.models.decoder import AnswerDecoder
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.tasks.base import Losses, Metrics, Task, albef_of


class VqaTask(Task):
    """`base` has the model without ITC projections and the decoder, both with a momentum copy if alpha is above 0."""

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: VqaConfig, seed: int = 0) -> None:
        super().__init__()
        del seed  # nothing is drawn
        self.config = config
        albef = ALBEF(model, compute, projections=False)
        self.base = nn.ModuleDict({"albef": albef, "decoder": AnswerDecoder(model.text, compute, config.decoder_layers)})

    def schedule(self, epoch: float) -> dict[str, float]:
        """Returns alpha, which rises linearly over `alpha_ramp_epochs`."""
        return {"alpha": self.config.alpha_at(epoch)}

    def forward(self, batch: VqaBatch, *, alpha: float) -> tuple[Losses, Metrics]:
        """Returns loss `answer` and metric `token_accuracy` of B questions.

        The loss of an answer is the sum over its tokens; the result is the weighted sum over answers, divided by B (released
        code).
        """
        targets = batch.answer_mask[:, 1:]
        labels = batch.answer_ids[:, 1:][targets]
        logits = self._logits(self.base, batch)
        momentum_logits = None
        if alpha > 0.0:
            with self.momentum_modules(logits) as modules:
                momentum_logits = self._logits(modules, batch)
        per_token = distilled_cross_entropy(logits, labels, momentum_logits, alpha)
        weights = batch.answer_weights[:, None].expand(targets.shape)[targets]
        with torch.no_grad():
            metrics = {"token_accuracy": (logits.argmax(dim=1) == labels).double().mean()}
        return {"answer": (per_token * weights).sum() / len(batch)}, metrics

    def fuse_question(self, batch: Batch, *, momentum: bool = False) -> Tensor:
        """Returns the questions fused with their images (B, L, D), by the student or its momentum copy."""
        return _fuse_question(self.momentum.modules if momentum else self.base, batch)

    def rank_answers(
        self,
        question_embeds: Tensor,
        question_mask: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        k: int,
        *,
        momentum: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """See `models.answers.rank_answers`. Set the task to eval mode first."""
        return rank_answers(self._decoder(momentum), question_embeds, question_mask, answer_ids, answer_mask, k)

    def generate(
        self,
        question_embeds: Tensor,
        question_mask: Tensor,
        *,
        start_id: int,
        end_id: int,
        max_tokens: int = 10,
        momentum: bool = False,
    ) -> Tensor:
        """See `models.answers.generate_answers`. Set the task to eval mode first."""
        decoder = self._decoder(momentum)
        return generate_answers(decoder, question_embeds, question_mask, start_id=start_id, end_id=end_id, max_tokens=max_tokens)

    def search(
        self, question_embeds: Tensor, question_mask: Tensor, *, start_id: int, end_id: int, max_tokens: int, beams: int
    ) -> list[tuple[list[int], float]]:
        """See `models.answers.search_answers`. Set the task to eval mode first."""
        ends = {"start_id": start_id, "end_id": end_id, "max_tokens": max_tokens}
        return search_answers(self._decoder(False), question_embeds, question_mask, **ends, beams=beams)

    def _decoder(self, momentum: bool) -> AnswerDecoder:
        return _decoder_of(self.momentum.modules if momentum else self.base)

    def _logits(self, modules: nn.ModuleDict, batch: VqaBatch) -> Tensor:
        """Returns vocabulary logits (M, V) of the M answer tokens after each first one, answer by answer."""
        decoder = _decoder_of(modules)
        question_embeds = _fuse_question(modules, batch)
        rows = torch.arange(len(batch), device=question_embeds.device)
        # The given length avoids waiting for the GPU.
        index = rows.repeat_interleave(batch.answer_counts, output_size=batch.answer_ids.shape[0])
        hidden = decoder.hidden(batch.answer_ids, batch.answer_mask, question_embeds, batch.token_mask, index)
        return decoder.mlm_head(hidden[:, :-1][batch.answer_mask[:, 1:]])


def _decoder_of(modules: nn.ModuleDict) -> AnswerDecoder:
    decoder = modules["decoder"]
    assert isinstance(decoder, AnswerDecoder)
    return decoder


def _fuse_question(modules: nn.ModuleDict, batch: Batch) -> Tensor:
    albef = albef_of(modules)
    text_embeds = albef.encode_text(batch.token_ids, batch.token_mask)
    [fused] = albef.fuse(albef.encode_image(batch.images), [FusionPass(text_embeds, batch.token_mask)])
    return fused
