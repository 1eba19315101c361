"""Matches many images and texts: each text and each image is encoded once, and no padding is computed. Knows no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef_ds.data.text.distinct import DistinctTexts
from albef_ds.inference.inputs import Member
from albef_ds.models.matching import PackedTexts, match_logits
from albef_ds.tasks.contrastive import ContrastiveTask

Pairs = list[tuple[int, int]]
"""(place of a pair among all, number of its text)."""


def match(
    task: ContrastiveTask,
    images: Sequence[Any],
    texts: DistinctTexts,
    encode: Callable[[list[Any]], Tensor],
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Probability that image i and the i-th text match, float32 (B,).

    Args:
        task: in eval mode.
        images: B images, or one for all texts. Equal paths are one image.
        texts: the texts of B pairs.
        encode: returns the tokens of images, (N, ...).
        batch_size: pairs, images or texts per forward pass.
        device: where to compute.
    """
    packed = _encoded(task, texts, batch_size, device)
    numbers = texts.number.tolist()
    given = images if len(images) == len(numbers) else [images[0]] * len(numbers)
    by_image: dict[Any, tuple[Any, Pairs]] = {}
    for place, (image, text) in enumerate(zip(given, numbers, strict=True)):
        key = str(image) if isinstance(image, str | Path | Member) else id(image)
        by_image.setdefault(key, (image, []))[1].append((place, text))
    found = torch.empty(len(numbers), device=device)
    last: tuple[Any, Tensor] | None = None
    for part in _parts(list(by_image.values()), batch_size):
        # An image with many texts is in several parts.
        new = [image for image, _ in part if last is None or image is not last[0]]
        known = [last[1]] if last is not None and len(new) < len(part) else []
        embeds = torch.cat([*known, *([encode(new)] if new else [])])
        last = part[-1][0], embeds[-1:]
        logits = match_logits(task.model, task.itm_head, embeds, packed, [[text for _, text in pairs] for _, pairs in part])
        places = torch.tensor([place for _, pairs in part for place, _ in pairs], device=device)
        found[places] = torch.softmax(logits, dim=-1)[:, 1]
    return found


def _encoded(task: ContrastiveTask, texts: DistinctTexts, batch_size: int, device: torch.device) -> PackedTexts:
    embeds = []
    for rows in torch.split(torch.arange(len(texts.lengths)), batch_size):
        ids, mask = (part.to(device) for part in texts.padded(rows))
        embeds.append(task.model.encode_text(ids, mask)[mask])
    return PackedTexts(torch.cat(embeds), texts.lengths)


def _parts(images: list[tuple[Any, Pairs]], size: int) -> Iterator[list[tuple[Any, Pairs]]]:
    """Yields images with at most `size` pairs together; the pairs of one image may be in several parts."""
    part: list[tuple[Any, Pairs]] = []
    left = size
    for image, pairs in images:
        for start in range(0, len(pairs), size):
            chunk = pairs[start : start + size]
            if len(chunk) > left:
                yield part
                part, left = [], size
            part.append((image, chunk))
            left -= len(chunk)
    if part:
        yield part
