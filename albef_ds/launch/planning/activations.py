"""Computes the bytes that the forward pass keeps for the backward pass, by part of the model, from the shapes of its layers.

The terms follow the modules line by line; docs/memory.md writes them with symbols. An attention is *fused* (torch's kernel keeps
queries, keys, values, output) or *plain* (keeps softmax weights as well). `training_state.py` has parameters and engine state.
"""

from __future__ import annotations

from dataclasses import dataclass

from albef_ds.config.schema import RunConfig, TextConfig

_STATISTICS = 8
"""Bytes of mean and reciprocal deviation of a LayerNorm, per token."""


@dataclass(frozen=True)
class PartActivations:
    """Bytes of one part: `kept` until the backward pass, and `recomputed`, one layer's while it is computed again."""

    name: str
    kept: int
    recomputed: int = 0


@dataclass(frozen=True)
class Compute:
    """Properties besides shapes that affect the bytes."""

    itemsize: int
    mask: int
    """Bytes of an element of a dropout mask."""
    fused: bool
    """Whether attention is fused."""

    @classmethod
    def of(cls, config: RunConfig, precision: str, device_type: str) -> Compute:
        """Returns the properties of the computation on a device of this type."""
        itemsize = 4 if precision == "fp32" else 2
        # On a GPU dropout keeps one byte per element; on a CPU it keeps the scaled mask in the input's precision.
        mask = (1 if device_type == "cuda" else itemsize) if config.model.text.dropout else 0
        attention = config.compute.attention
        return cls(itemsize, mask, attention == "sdpa" or (attention == "auto" and device_type == "cuda"))

    def weights(self, queries: int, keys: int, heads: int) -> int:
        """Returns the bytes per row of a text attention besides queries, keys, values and output."""
        if self.fused:
            return 4 * heads * queries
        dropped = self.itemsize + self.mask if self.mask else (self.itemsize if self.itemsize < 4 else 0)
        return heads * queries * keys * (4 + dropped)


def activations(config: RunConfig, compute: Compute, world_size: int) -> list[PartActivations]:
    """Returns every part's activations at `train.micro_batch_size`, with captions of full length and a full queue."""
    return [
        PartActivations("input batch", config.train.micro_batch_size * 4 * 3 * config.model.vision.image_size**2),
        _visual(config, compute),
        _text(config, compute),
        _multimodal(config, compute, world_size),
        _masked_language(config, compute),
        _contrastive(config, world_size),
    ]


def masked_tokens(config: RunConfig) -> int:
    """Returns the MLM positions per caption for which memory is planned: a batch of long masks, as in the dry run."""
    return min(config.text_length - 1, max(1, round(2 * config.data.mlm_probability * config.text_length)))


def temporary(config: RunConfig, compute: Compute) -> int:
    """Estimates the bytes of the largest temporary tensors of one operation, in the forward pass or its gradient."""
    vision, size, s = config.model.vision, config.train.micro_batch_size, compute.itemsize
    image = size * vision.num_tokens
    vocabulary = 3 * 4 * size * masked_tokens(config) * config.model.text.vocab_size
    block = int(image * vision.width * (2 * vision.mlp_ratio + 4) * s)
    scores = 0 if compute.fused else 2 * image * vision.num_tokens * vision.num_heads * s
    return max(vocabulary, block + scores, 10 * image * config.model.text.width * s)


def _visual(config: RunConfig, compute: Compute) -> PartActivations:
    vision, size, s = config.model.vision, config.train.micro_batch_size, compute.itemsize
    tokens, width = vision.num_tokens, vision.width
    if vision.frozen:
        return PartActivations("visual encoder", size * tokens * width * s)
    hidden = int(vision.mlp_ratio * width)
    # Two norm inputs, two norm outputs, queries, keys, values, the context, and the feed-forward part before and after GELU.
    attention = 4 * vision.num_heads if compute.fused else vision.num_heads * tokens * s
    block = tokens * ((8 * width + 2 * hidden) * s + 2 * _STATISTICS + attention)
    kept = tokens * width * s if config.compute.checkpoint_visual else block
    ends = tokens * (2 * width * s + _STATISTICS) + _stem(config, s)
    return PartActivations(
        "visual encoder", size * (vision.depth * kept + ends), size * block if config.compute.checkpoint_visual else 0
    )


def _stem(config: RunConfig, s: int) -> int:
    """Returns the bytes per image before the first block; the fp32 image is counted in the input batch."""
    vision = config.model.vision
    image = 3 * vision.image_size**2 * s if s < 4 else 0
    if vision.stem == "patch":
        return image
    num_layers = vision.patch_size.bit_length() - 1
    elements = 0
    for layer in range(num_layers):
        width, side = max(32, vision.width >> (num_layers - 1 - layer)), vision.image_size >> (layer + 1)
        # A stride-2 layer keeps the inputs of its norm, its GELU and the next convolution; the last layer has none of these.
        elements += (3 if layer < num_layers - 1 else 1) * width * side**2
    return image + elements * s


def _text_layer(text: TextConfig, compute: Compute, queries: int, keys: int) -> int:
    """Returns the bytes per row of self-attention and feed-forward for `queries` of `keys` tokens, the layer's input included."""
    s, width = compute.itemsize, text.width
    per_key = 3 * width * s
    # Query, context, norm input and output; feed-forward before and after GELU; norm input. Two dropout masks.
    per_query = (5 * width + 2 * text.intermediate_width) * s + 2 * width * compute.mask + 2 * _STATISTICS
    return keys * per_key + queries * per_query + compute.weights(queries, keys, text.num_heads)


def _text(config: RunConfig, compute: Compute) -> PartActivations:
    text, length, s = config.model.text, config.text_length, compute.itemsize
    rows = 2 * config.train.micro_batch_size  # the clean and the masked text
    output = rows * length * text.width * s
    if text.frozen:
        return PartActivations("text encoder", output)
    layer = _text_layer(text, compute, length, length)
    recompute = config.compute.checkpoint_text
    kept = length * text.width * s if recompute else layer
    embedding = length * (text.width * (s + compute.mask) + _STATISTICS + 8)
    total = rows * (text.num_layers * kept + embedding) + output
    return PartActivations("text encoder", total, rows * layer if recompute else 0)


def _fusion_layer(config: RunConfig, compute: Compute, rows: int, queries: int) -> int:
    """Returns the bytes of `rows` texts in one layer, without keys and values of their images."""
    text, length, s = config.model.text, config.text_length, compute.itemsize
    width, tokens = text.width, config.model.vision.num_tokens
    # Query, context, norm input, norm output of the cross-attention, and its dropout mask.
    cross = queries * (4 * width * s + width * compute.mask + _STATISTICS) + compute.weights(queries, tokens, text.num_heads)
    gathered = queries * width * s if queries < length else 0
    return rows * (_text_layer(text, compute, queries, length) + cross + gathered)


def _image_keys(config: RunConfig, compute: Compute, one_call: bool, itm: int) -> int:
    """Returns the bytes of keys and values in one layer and copies that pair texts and images; ITM has `itm` queries."""
    size, vision, width = config.train.micro_batch_size, config.model.vision, config.model.text.width
    pair = 2 * vision.num_tokens * width * compute.itemsize
    if config.compute.share_cross_kv and not compute.fused:
        # Copies in the order of the products, of all images of a call: own and negative ones.
        return (2 if one_call else 4) * size * pair
    if config.compute.share_cross_kv:
        # Projections of own and negative images. Queries of the same images are joined, and their contexts split again.
        return 2 * size * pair + (3 + 4 if one_call else 2) * size * itm * width * compute.itemsize
    copied = (4 if one_call else 2) * size * vision.num_tokens * vision.width * compute.itemsize
    return 4 * size * pair + copied


def _multimodal(config: RunConfig, compute: Compute, world_size: int) -> PartActivations:
    text, length, s = config.model.text, config.text_length, compute.itemsize
    size, settings, positions = config.train.micro_batch_size, config.compute, masked_tokens(config)
    cls = 1 if settings.itm_cls_only else length
    asked = positions if settings.itm_cls_only and settings.mlm_masked_only else length

    def three_passes(itm: int, mlm: int) -> int:
        passes = ((size, itm), (2 * size, itm), (size, mlm))
        return sum(_fusion_layer(config, compute, *one) for one in passes)

    layer = three_passes(length, length) + _image_keys(config, compute, settings.one_fusion_call, length)
    last = three_passes(cls, asked) + _image_keys(config, compute, False, cls)
    text_input = 4 * size * length * text.width * s
    images = size * config.model.vision.num_tokens * config.model.vision.width * s
    drawn = 2 * images if config.pretraining().gather_negatives and world_size > 1 else 0
    head = 3 * size * cls * text.width * s
    if settings.checkpoint_multimodal:
        return PartActivations("multimodal encoder", text.num_fusion_layers * text_input + drawn + head, max(layer, last))
    return PartActivations("multimodal encoder", (text.num_fusion_layers - 1) * layer + last + drawn + head)


def _masked_language(config: RunConfig, compute: Compute) -> PartActivations:
    text, s = config.model.text, compute.itemsize
    masked = config.train.micro_batch_size * masked_tokens(config)
    rows = masked if config.compute.mlm_masked_only else config.train.micro_batch_size * config.text_length
    targets = 4 if config.pretraining().alpha > 0 else 0
    return PartActivations("MLM head", rows * (4 * text.width * s + _STATISTICS) + masked * text.vocab_size * (4 + targets))


def _contrastive(config: RunConfig, world_size: int) -> PartActivations:
    size = config.train.micro_batch_size
    candidates = size * (world_size if config.pretraining().gather_negatives else 1) + config.pretraining().queue_size
    # In fp32: the other modality's keys, and per direction similarities, log-softmax and targets.
    return PartActivations("ITC with the queue", 2 * 4 * candidates * (config.model.embed_dim + 3 * size))
