"""The answer decoder: multimodal layers with a causal mask over the fused question (paper section 5, VQA).

The training objective is in `tasks/vqa.py`, ranking and generation in `models/answers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from albef_ds.config.schema import ComputeConfig, TextConfig
from albef_ds.models.bert import MultimodalEncoder, TextEmbeddings
from albef_ds.models.fusion_pass import FusionPass, TextsPerImage
from albef_ds.models.heads import MLMHead
from albef_ds.models.packing import Packing, packed


class AnswerDecoder(nn.Module):
    """Own embeddings, `num_layers` multimodal layers, and a vocabulary head tied to the embeddings."""

    def __init__(self, config: TextConfig, compute: ComputeConfig, num_layers: int) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = MultimodalEncoder(replace(config, num_fusion_layers=num_layers), compute, config.width)
        self.mlm_head = MLMHead(config, self.embeddings.word)

    def hidden(
        self,
        answer_ids: Tensor,
        answer_mask: Tensor,
        question_embeds: Tensor,
        question_mask: Tensor,
        question_index: Tensor | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Returns hidden states (A, La, D) of answers with causal attention; with `counts` without computing padding.

        Args:
            answer_ids: int64 (A, La).
            answer_mask: bool (A, La), true at tokens.
            question_embeds: (B, L, D), fused with their images.
            question_mask: bool (B, L).
            question_index: int64 (A,), the question of each answer; None: question i for answer i.
            counts: instead of `question_index`, number of answers to each question, which follow each other; each has a token.
        """
        answers = FusionPass(self.embeddings(answer_ids), answer_mask, (question_index,), causal=True)
        if counts is not None:
            lengths = answer_mask.sum(dim=1).cpu()
            tokens = tuple(int(part.sum()) for part in torch.split(lengths, list(counts)))
            packing = Packing.of_lengths(lengths.tolist(), answer_ids.device)
            index = (TextsPerImage(tuple(counts), tokens),)
            answers = replace(answers, text_embeds=packed(answers.text_embeds, packing), packing=packing, image_index=index)
        [hidden] = self.encoder(question_embeds, [answers], question_mask)
        return hidden

    def next_token_logits(self, answer_ids: Tensor, question_embeds: Tensor, question_mask: Tensor) -> Tensor:
        """Returns vocabulary logits (B, V) of the token after `answer_ids` int64 (B, La), one prefix per question."""
        mask = torch.ones_like(answer_ids, dtype=torch.bool)
        return self.mlm_head(self.hidden(answer_ids, mask, question_embeds, question_mask)[:, -1])
