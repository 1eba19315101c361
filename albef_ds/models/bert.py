"""The BERT layers of the text encoder and the multimodal encoder (paper section 3.1).

Post-norm transformer layers whose parameters correspond one to one to `bert-base-uncased` and to the released ALBEF files. We do
not use the stock layers because their cross-attention forces causal self-attention and cannot share the keys and values of an
image between passes.

The MLM head is in `models/heads.py`; `checkpoint/initial/` loads weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from albef_ds.config.schema import ComputeConfig, TextConfig
from albef_ds.models.attention import attend, merge_heads, split_heads
from albef_ds.models.fusion_pass import (
    FusionPass,
    ImageIndex,
    TextsPerImage,
    cat,
    concatenate,
    parts_by_images,
    select_images,
    split,
)
from albef_ds.models.packing import Packing, packed, unpacked


def run_layer(layer: nn.Module, recompute: bool, *args: Any) -> Any:
    """Returns `layer(*args)`; with `recompute` its activations are recomputed in the backward pass.

    Uses non-reentrant checkpointing: the reentrant form reduces a parameter twice if a layer is used more than once per step.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *args, use_reentrant=False)
    return layer(*args)


class ResidualNorm(nn.Module):
    """Linear, dropout, residual sum, LayerNorm: the last part of each BERT sub-layer."""

    def __init__(self, in_width: int, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """(B, L, in_width), (B, L, D) -> (B, L, D)."""
        return self.norm(residual + self.dropout(self.dense(hidden)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with its residual and norm."""

    def __init__(self, config: TextConfig, compute: ComputeConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.implementation = compute.attention
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = ResidualNorm(config.width, config)

    def forward(self, hidden: Tensor, mask: Tensor, queries: Tensor | None = None, packing: Packing | None = None) -> Tensor:
        """Attends from `queries` (B, Q, D), by default all of `hidden`, under `mask` (B, 1, Q or 1, L) -> shape of the queries.

        `hidden` is (B, L, D), or with `packing` the packed tokens (T, D).
        """
        if packing is not None and packing.by_length:
            return self._by_length(hidden, mask, queries, packing)
        query = unpacked(self.query(hidden), packing) if queries is None else self.query(queries)
        context = attend(
            split_heads(query, self.num_heads),
            split_heads(unpacked(self.key(hidden), packing), self.num_heads),
            split_heads(unpacked(self.value(hidden), packing), self.num_heads),
            mask,
            dropout=self.dropout if self.training else 0.0,
            implementation=self.implementation,
        )
        merged = merge_heads(context)
        return self.output(packed(merged, packing), hidden) if queries is None else self.output(merged, queries)

    def _by_length(self, hidden: Tensor, mask: Tensor, queries: Tensor | None, packing: Packing) -> Tensor:
        """Attends among the rows of each length, which have no padding; a mask remains only where later tokens are hidden."""
        asking = self.query(hidden if queries is None else queries)
        key, value, merged = self.key(hidden), self.value(hidden), torch.empty_like(asking)
        for rows, tokens in packing.by_length:
            shown = mask[rows, ..., : tokens.shape[1]]
            if queries is None:
                shown = shown[:, :, : tokens.shape[1]]
            found = attend(
                split_heads(asking[tokens if queries is None else rows], self.num_heads),
                split_heads(key[tokens], self.num_heads),
                split_heads(value[tokens], self.num_heads),
                None if bool(shown.all()) else shown,
                dropout=self.dropout if self.training else 0.0,
                implementation=self.implementation,
            )
            merged[tokens if queries is None else rows] = merge_heads(found)
        return self.output(merged, hidden if queries is None else queries)


class CrossKeyValue(nn.Module):
    """Keys and values of the image tokens: a separate module, so that two layers can share it (NLVR2)."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.key = nn.Linear(image_width, config.width)
        self.value = nn.Linear(image_width, config.width)

    def forward(self, image_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, image_width) -> keys and values, each (B, heads, N, d)."""
        return split_heads(self.key(image_embeds), self.num_heads), split_heads(self.value(image_embeds), self.num_heads)


class CrossAttention(nn.Module):
    """Attention from text to image tokens with its residual and norm."""

    def __init__(self, config: TextConfig, compute: ComputeConfig, image_width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.implementation = compute.attention
        self.query = nn.Linear(config.width, config.width)
        self.key_value = CrossKeyValue(config, image_width)
        self.output = ResidualNorm(config.width, config)
        self.attend = attend
        """The attention function; `models/gradcam.py` replaces it by one that keeps the weights."""

    def forward(
        self,
        hidden: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        packing: Packing | None = None,
        image_index: Sequence[ImageIndex] = (None,),
    ) -> Tensor:
        """Attends from texts (R, L, D), or packed (T, D), to images -> shape of `hidden`.

        Keys and values are (B, heads, N, d), the mask bool (B, 1, 1, N) or None; `image_index` as in `FusionPass`. Parts with
        the same images become queries of one call, k L per image instead of L, so that no key is copied for them.
        """
        if len(image_index) == 1 and isinstance(image_index[0], TextsPerImage):
            return self._by_image(hidden, key, value, mask, packing, image_index[0])
        query = split_heads(unpacked(self.query(hidden), packing), self.num_heads)
        contexts = split(query, len(image_index))
        for index, parts in parts_by_images(image_index):
            found = self.attend(
                cat([contexts[part] for part in parts], dim=2),
                select_images(key, index),
                select_images(value, index),
                None if mask is None else select_images(mask, index),
                dropout=self.dropout if self.training else 0.0,
                implementation=self.implementation,
            )
            for part, context in zip(parts, split(found, len(parts), dim=2), strict=True):
                contexts[part] = context
        return self.output(packed(merge_heads(cat(contexts)), packing), hidden)

    def _by_image(
        self, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, packing: Packing | None, texts: TextsPerImage
    ) -> Tensor:
        """One call per image with all tokens of its texts as queries; no key or value is copied."""
        query, contexts = self.query(hidden), []
        for image, part in enumerate(torch.split(query, list(texts.rows if packing is None else texts.tokens))):
            chosen = slice(image, image + 1)
            found = self.attend(
                split_heads(part.reshape(1, -1, part.shape[-1]), self.num_heads),
                key[chosen],
                value[chosen],
                None if mask is None else mask[chosen],
                dropout=self.dropout if self.training else 0.0,
                implementation=self.implementation,
            )
            contexts.append(merge_heads(found).view(part.shape))
        return self.output(torch.cat(contexts), hidden)


class FeedForward(nn.Module):
    """Two linear layers with GELU (erf form), residual and norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.intermediate_width)
        self.output = ResidualNorm(config.intermediate_width, config)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.output(F.gelu(self.up(hidden)), hidden)


class TextLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: TextConfig, compute: ComputeConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config, compute)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, mask: Tensor, packing: Packing | None = None) -> Tensor:
        """(B, L, D) or packed (T, D), (B, 1, 1 or L, L) -> shape of `hidden`."""
        return self.feed_forward(self.self_attention(hidden, mask, None, packing))


class TextEmbeddings(nn.Module):
    """Word + position + token-type embeddings, norm, dropout. Token type is always 0."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D)."""
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        embeds = self.word(token_ids) + self.token_type(torch.zeros_like(token_ids)) + self.position(positions)
        return self.dropout(self.norm(embeds))


class TextEncoder(nn.Module):
    """Embeddings and the lower BERT layers, for text only (paper section 3.1)."""

    def __init__(self, config: TextConfig, compute: ComputeConfig) -> None:
        super().__init__()
        self.recompute = compute.checkpoint_text
        self.packed = compute.packed_text
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config, compute) for _ in range(config.num_layers))

    def forward(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) -> text embeddings (B, L, D), meaningless at padding."""
        packing = Packing.of(token_mask) if self.packed else None
        hidden = packed(self.embeddings(token_ids), packing)
        mask = token_mask[:, None, None, :]
        for layer in self.layers:
            hidden = run_layer(layer, self.recompute, hidden, mask, packing)
        return unpacked(hidden, packing)


def gather_tokens(hidden: Tensor, positions: Tensor) -> Tensor:
    """Returns the tokens at `positions` int64 (R, Q) of `hidden` (R, L, D) -> (R, Q, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


class FusionLayer(nn.Module):
    """Self-attention, cross-attention to the image tokens, feed-forward.

    One call serves several passes, so an image's keys and values are projected once per layer for any number of texts; without
    `share_cross_kv` they are projected for every row, as in the released code.
    """

    def __init__(self, config: TextConfig, compute: ComputeConfig, image_width: int) -> None:
        super().__init__()
        self.share_cross_kv = compute.share_cross_kv
        self.self_attention = SelfAttention(config, compute)
        self.cross_attention = CrossAttention(config, compute, image_width)
        self.feed_forward = FeedForward(config)

    def forward(
        self, image_embeds: Tensor, passes: Sequence[FusionPass], last: bool, image_mask: Tensor | None = None
    ) -> list[Tensor]:
        """Image tokens (B, N, image_width) -> per pass the shape of `text_embeds`, or (R, Q, D) at its `positions` if `last`.

        `image_mask` bool (B, N) is false at tokens to hide; None hides none.
        """
        project = self.cross_attention.key_value
        cross_mask = None if image_mask is None else image_mask[:, None, None, :]
        shared = (*project(image_embeds), cross_mask) if self.share_cross_kv else None
        outputs = []
        for item in passes:
            index = item.image_index
            if shared is None:
                row_mask = None if cross_mask is None else cat([select_images(cross_mask, part) for part in index])
                images = (*project(cat([select_images(image_embeds, part) for part in index])), row_mask)
                index = (None,)
            else:
                images = shared
            hidden, mask, queries = item.text_embeds, item.attention_mask, None
            if last and item.positions is not None:
                queries = gather_tokens(item.with_padding().text_embeds, item.positions)
                if item.causal:
                    mask = mask.gather(2, item.positions[:, None, :, None].expand(-1, 1, -1, mask.shape[-1]))
            hidden = self.self_attention(hidden, mask, queries, item.packing)
            kept = item.packing if queries is None else None
            outputs.append(self.feed_forward(self.cross_attention(hidden, *images, kept, index)))
        return outputs


class MultimodalEncoder(nn.Module):
    """The upper BERT layers, each with cross-attention to the image tokens (paper section 3.1).

    With two images per text, each layer becomes two successive ones, one per image, which share the projections of
    cross-attention keys and values (paper section 5, NLVR2).
    """

    def __init__(self, config: TextConfig, compute: ComputeConfig, image_width: int, num_images: int = 1) -> None:
        super().__init__()
        self.num_images = num_images
        self.recompute = compute.checkpoint_multimodal
        self.one_call = compute.one_fusion_call
        self.packed = compute.packed_text
        self.last_positions_only = compute.itm_cls_only
        layers = [FusionLayer(config, compute, image_width) for _ in range(config.num_fusion_layers * num_images)]
        for number, layer in enumerate(layers):
            layer.cross_attention.key_value = layers[number - number % num_images].cross_attention.key_value
        self.layers = nn.ModuleList(layers)

    def forward(self, image_embeds: Tensor, passes: Sequence[FusionPass], image_mask: Tensor | None = None) -> list[Tensor]:
        """Fuses each pass with its images.

        Args:
            image_embeds: (B, N, image_width), which the passes index; (I, B, N, image_width) if a text has I images.
            passes: texts of one length L if they are to run as one call.
            image_mask: bool (B, N), false at tokens to hide; None hides none.

        Returns:
            Per pass (R, L, D), or (R, Q, D) if it names `positions`.
        """
        images = image_embeds.unbind(0) if self.num_images > 1 else (image_embeds,)
        groups = [concatenate(passes)] if self.one_call and len(passes) > 1 else list(passes)
        groups = self._without_padding(groups)
        for number, layer in enumerate(self.layers[:-1]):
            outputs = run_layer(layer, self.recompute, images[number % self.num_images], groups, False, image_mask)
            groups = [replace(item, text_embeds=output) for item, output in zip(groups, outputs, strict=True)]
        current = groups
        if len(groups) < len(passes):
            parts = torch.split(groups[0].with_padding().text_embeds, [item.token_mask.shape[0] for item in passes])
            current = self._without_padding([replace(item, text_embeds=part) for item, part in zip(passes, parts, strict=True)])
        outputs = run_layer(self.layers[-1], self.recompute, images[-1], current, self.last_positions_only, image_mask)
        results = []
        for item, output in zip(current, outputs, strict=True):
            if item.positions is None:
                results.append(unpacked(output, item.packing))
            elif self.last_positions_only:
                results.append(output)
            else:
                results.append(gather_tokens(unpacked(output, item.packing), item.positions))
        return results

    def _without_padding(self, passes: list[FusionPass]) -> list[FusionPass]:
        return [item.with_packing() for item in passes] if self.packed else passes


def init_bert_weights(module: nn.Module) -> None:
    """Sets BERT's initial weights of one module: normal(0, 0.02) matrices, zero biases, unit norms."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx : module.padding_idx + 1].data)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)
