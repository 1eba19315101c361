"""Computes the FLOPs of one forward and backward pass, by part of the model, from the shapes of its layers.

Counts matrix products, convolutions and attention; a multiply-add is 2. Element-wise operations, norms and the optimizer are not
counted, because memory traffic dominates their cost. tests/launch/planning/test_flops.py compares it with torch's counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from albef_ds.config.schema import RunConfig, TextConfig
from albef_ds.models.losses.wide import wide_losses


@dataclass(frozen=True)
class PartFlops:
    """FLOPs of one part for a micro-batch."""

    name: str
    forward: float
    backward: float
    momentum: float = 0.0
    """Forward pass of the momentum model."""
    recompute: float = 0.0
    """Recomputed forward pass during the backward pass, for activations that are not kept."""

    @property
    def model(self) -> float:
        """All FLOPs except the recomputation."""
        return self.forward + self.backward + self.momentum


def masked_per_caption(config: RunConfig) -> float:
    """Returns the mean number of MLM positions of a caption of full length."""
    return config.data.mlm_probability * (config.text_length - 1)


def step_flops(config: RunConfig, world_size: int = 1, masked: float | None = None) -> list[PartFlops]:
    """Returns the FLOPs of one micro-batch of pretraining on one rank, with captions of full length and a full queue.

    `world_size` matters with `task.gather_negatives` only. `masked` are the MLM positions of every caption, by default the mean.
    """
    masked = masked_per_caption(config) if masked is None else masked
    return [
        _visual(config),
        _text(config),
        _multimodal(config, world_size, masked),
        _words(config, masked),
        _contrast(config, world_size),
    ]


def _linear(rows: float, in_width: int, out_width: int) -> float:
    return 2.0 * rows * in_width * out_width


def _visual(config: RunConfig) -> PartFlops:
    vision, size = config.model.vision, config.train.micro_batch_size
    tokens, width = vision.num_tokens, vision.width
    hidden = int(vision.mlp_ratio * width)
    block = _linear(tokens, width, 4 * width + 2 * hidden) + 4.0 * tokens**2 * width
    blocks, stem = size * vision.depth * block, [size * layer for layer in _stem(config)]
    projected = _linear(size, width, config.model.embed_dim)
    forward = blocks + sum(stem) + projected
    if vision.frozen:  # the momentum model takes the student's embeddings
        return PartFlops("visual encoder", forward, projected, projected)
    # The gradient of the images is not computed.
    backward = 2 * forward - stem[0]
    # Recomputation does not need the last matrix product of each block.
    again = blocks - size * vision.depth * _linear(tokens, hidden, width)
    return PartFlops("visual encoder", forward, backward, forward, again if config.compute.checkpoint_visual else 0.0)


def _stem(config: RunConfig) -> list[float]:
    """Returns the FLOPs per image of each layer that turns pixels into tokens."""
    vision = config.model.vision
    patches = vision.num_tokens - 1
    if vision.stem == "patch":
        return [_linear(patches, 3 * vision.patch_size**2, vision.width)]
    num_layers = vision.patch_size.bit_length() - 1
    layers, in_width = [], 3
    for layer in range(num_layers):
        width = max(32, vision.width >> (num_layers - 1 - layer))
        layers.append(_linear((vision.image_size >> (layer + 1)) ** 2, 9 * in_width, width))
        in_width = width
    return [*layers, _linear(patches, in_width, vision.width)]


def _text_layer(text: TextConfig, queries: float, keys: int) -> float:
    """Returns the FLOPs per row of self-attention and feed-forward, for `queries` of `keys` tokens."""
    width = text.width
    attention = _linear(queries, width, 2 * width) + _linear(keys, width, 2 * width) + 4.0 * queries * keys * width
    return attention + 2 * _linear(queries, width, text.intermediate_width)


def _text(config: RunConfig) -> PartFlops:
    text, size, length = config.model.text, config.train.micro_batch_size, config.text_length
    row = text.num_layers * _text_layer(text, length, length)
    projected = _linear(size, text.width, config.model.embed_dim)
    layers = 2 * size * row  # the clean and the masked text
    rows = 2 * size if config.pretraining().alpha > 0 else size
    backward = projected if text.frozen else 2 * (projected + layers)
    momentum = projected + (0.0 if text.frozen else rows * row)
    recompute = layers if config.compute.checkpoint_text and not text.frozen else 0.0
    return PartFlops("text encoder", layers + projected, backward, momentum, recompute)


@dataclass(frozen=True)
class _FusionFlops:
    """FLOPs of one multimodal layer's forward pass, by what a product multiplies."""

    texts: float
    """Queries, keys and values of the texts."""
    self_attention: float
    images: float
    """Keys and values of the images."""
    queries: float
    """Output of self-attention, and queries of cross-attention."""
    cross_attention: float
    rest: float

    @property
    def forward(self) -> float:
        return self.texts + self.self_attention + self.images + self.queries + self.cross_attention + self.rest

    def backward(self, learns: bool, texts: bool, images: bool) -> float:
        """Returns the FLOPs of the gradients.

        Args:
            learns: whether the weights are trained.
            texts: whether the layer's text input needs a gradient.
            images: whether the image embeddings do.
        """
        hidden, keys = learns or texts, learns or images
        any_input = hidden or keys
        return (
            self.texts * (learns + texts)
            + self.self_attention * 2 * hidden
            + self.images * (learns + images)
            + self.queries * (learns + hidden)
            + self.cross_attention * (hidden + any_input + 2 * keys) / 2
            + self.rest * (learns + any_input)
        )


def _fusion(config: RunConfig, passes: list[tuple[int, float]], images: int, last: bool) -> _FusionFlops:
    """Returns the FLOPs of one multimodal layer for `passes` of (rows, positions needed) over `images` different images."""
    text, vision, length, width = config.model.text, config.model.vision, config.text_length, config.model.text.width
    projected = images if config.compute.share_cross_kv else sum(rows for rows, _ in passes)
    queries = [(rows, wanted if last and config.compute.itm_cls_only else length) for rows, wanted in passes]
    tokens = sum(rows * asked for rows, asked in queries)
    all_tokens = length * sum(rows for rows, _ in passes)
    return _FusionFlops(
        texts=_linear(tokens, width, width) + _linear(all_tokens, width, 2 * width),
        self_attention=4.0 * tokens * length * width,
        images=_linear(projected * vision.num_tokens, vision.width, 2 * width),
        queries=_linear(tokens, width, 2 * width),
        cross_attention=4.0 * tokens * vision.num_tokens * width,
        rest=_linear(tokens, width, width) + 2 * _linear(tokens, width, text.intermediate_width),
    )


def _multimodal(config: RunConfig, world_size: int, masked: float) -> PartFlops:
    size, depth = config.train.micro_batch_size, config.model.text.num_fusion_layers
    asked = masked if config.compute.mlm_masked_only else float(config.text_length)
    # Images drawn from other ranks are added to the own ones.
    images = 2 * size if config.pretraining().gather_negatives and world_size > 1 else size
    three = [(size, 1.0), (2 * size, 1.0), (size, asked)]
    layers = [_fusion(config, three, images, number == depth - 1) for number in range(depth)]
    forward = sum(layer.forward for layer in layers)
    momentum = 0.0
    if config.pretraining().alpha > 0:
        momentum = sum(_fusion(config, [(size, asked)], size, number == depth - 1).forward for number in range(depth))
    head = _linear(3 * size, config.model.text.width, 2)
    learns, texts, seen = _trained(config)
    # Frozen texts need no gradient in the first layer; later layers' inputs come from layers.
    backward = sum(layer.backward(learns, texts if number == 0 else True, seen) for number, layer in enumerate(layers))
    if not (learns or texts or seen):
        backward, recompute = -head, 0.0  # the head's input needs no gradient either
    else:
        recompute = forward if config.compute.checkpoint_multimodal else 0.0
    return PartFlops("multimodal encoder", forward + head, backward + 2 * head, momentum, recompute)


def _trained(config: RunConfig) -> tuple[bool, bool, bool]:
    """Returns whether the multimodal encoder, the text encoder and the image encoder are trained."""
    vision, text = config.model.vision, config.model.text
    return not text.fusion_frozen, not text.frozen, not vision.frozen


def _words(config: RunConfig, masked: float) -> PartFlops:
    text = config.model.text
    rows = config.train.micro_batch_size * (masked if config.compute.mlm_masked_only else config.text_length)
    dense, decoder = _linear(rows, text.width, text.width), _linear(rows, text.width, text.vocab_size)
    momentum = dense + decoder if config.pretraining().alpha > 0 else 0.0
    # Sliced losses compute the logits again for their gradient.
    again = decoder if wide_losses(config.compute).recomputes_logits else 0.0
    learns = 1 if text.frozen else 2  # the decoder shares its matrix with the word embeddings
    inputs = 2 if any(_trained(config)) else 1
    return PartFlops("MLM head", dense + decoder, inputs * dense + learns * decoder, momentum, again)


def _contrast(config: RunConfig, world_size: int) -> PartFlops:
    size, width = config.train.micro_batch_size, config.model.embed_dim
    own = size * (world_size if config.pretraining().gather_negatives else 1)
    products = 2 * _linear(size, width, own + config.pretraining().queue_size)
    if not wide_losses(config.compute).recomputes_logits:
        return PartFlops("ITC with the queue", products, products, products)
    # The gradient computes both slices again, and the batch's own logits are computed for the choice of negatives.
    again = products * (2 if config.pretraining().alpha > 0 else 1) + 2 * _linear(size, width, own)
    return PartFlops("ITC with the queue", products, products, products if config.pretraining().alpha > 0 else 0.0, again)
