"""Splits the judging of image-text pairs over batches and ranks: what is judged together, where, and with which images in memory.

The pairs are sorted by image, and those of one image by their texts' length, so that a batch has few images and little padding.
Images come in blocks, which are encoded together, and no batch has images of two blocks: a rank holds the tokens of one block.
A batch's content does not depend on the number of ranks, so every world size gives bitwise equal scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from albef_ds.common import comm
from albef_ds.metrics.over_ranks import gather_parts


@dataclass(frozen=True)
class PairBatch:
    """Pairs of consecutive images of one block."""

    rows: Tensor
    """int64 (P,): the pairs' rows in the list of all pairs."""
    images: list[int]
    """Images, each once."""
    texts: list[list[int]]
    """Texts of each image, the shortest first."""


@dataclass(frozen=True)
class Unit:
    """Batches that one rank judges with the images of one block."""

    block: int
    batches: list[PairBatch]


def pair_batches(images: Tensor, texts: Tensor, lengths: Tensor, block: int, max_tokens: int) -> list[list[PairBatch]]:
    """The batches of each block that has pairs.

    Args:
        images: int64 (P,), image of each pair; on the CPU, as all arguments.
        texts: int64 (P,), text of each pair.
        lengths: int64 (T,), tokens of each text.
        block: number of images in a block; image i is in block i // `block`.
        max_tokens: text tokens of a batch; a batch has one pair more than fit.
    """
    tokens = lengths[texts]
    order = torch.argsort(images * (int(lengths.max()) + 1) + tokens, stable=True)
    images, texts, tokens = images[order], texts[order], tokens[order]
    blocks = images // block
    before = tokens.cumsum(0) - tokens
    _, block_sizes = torch.unique_consecutive(blocks, return_counts=True)
    first = (block_sizes.cumsum(0) - block_sizes).repeat_interleave(block_sizes)
    number = (before - before[first]) // max_tokens
    _, sizes = torch.unique_consecutive(torch.stack([blocks, number], dim=1), dim=0, return_counts=True)
    found: list[list[PairBatch]] = []
    last = -1
    parts = (torch.split(part, sizes.tolist()) for part in (order, images, texts))
    for rows, owners, members in zip(*parts, strict=True):
        if int(owners[0]) // block != last:
            last = int(owners[0]) // block
            found.append([])
        used, counts = torch.unique_consecutive(owners, return_counts=True)
        found[-1].append(PairBatch(rows, used.tolist(), [part.tolist() for part in torch.split(members, counts.tolist())]))
    return found


def rounds_of(blocks: list[list[PairBatch]], block: int, world_size: int) -> list[list[Unit]]:
    """Units of work in rounds of one per rank; a block with more than a rank's share of all batches becomes several units.

    The largest are first, so that the ranks of a round have about the same number of batches.
    """
    share = -(-sum(map(len, blocks)) // world_size)
    units = [
        Unit(batches[0].images[0] // block, batches[start : start + share])
        for batches in blocks
        for start in range(0, len(batches), share)
    ]
    units.sort(key=lambda unit: -len(unit.batches))
    return [units[start : start + world_size] for start in range(0, len(units), world_size)]


def judge(
    rounds: list[list[Unit]],
    num_pairs: int,
    encode: Callable[[int], Tensor],
    compute: Callable[[Tensor, PairBatch], Tensor],
    report: Callable[[int, int], None],
) -> Tensor:
    """Scores of all pairs (P, ...), on every rank.

    Every rank makes the same number of calls of either function, since each is a collective where weights are sharded: one
    without work left repeats the last unit or batch.

    Args:
        rounds: as `rounds_of` returns, the same on every rank.
        num_pairs: P.
        encode: block -> what `compute` needs of its images.
        compute: that, and a batch of the block -> scores (len(batch.rows), ...).
        report: called with (batches done, total batches).
    """
    total, done, parts = sum(len(unit.batches) for units in rounds for unit in units), 0, []
    for units in rounds:
        mine = units[min(comm.rank(), len(units) - 1)]
        images = encode(mine.block)
        for step in range(len(units[0].batches)):
            parts.append(compute(images, mine.batches[min(step, len(mine.batches) - 1)]))
            done += sum(step < len(unit.batches) for unit in units)
            report(done, total)
    by_rank = gather_parts(parts)
    scores = parts[0].new_zeros(num_pairs, *parts[0].shape[1:])
    start = 0
    for units in rounds:
        for unit, found in zip(units, by_rank, strict=False):
            for step, batch in enumerate(unit.batches):
                scores[batch.rows.to(scores.device)] = found[start + step]
        start += len(units[0].batches)
    return scores
