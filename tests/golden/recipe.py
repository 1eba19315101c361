"""Weights and inputs behind the golden numbers, from names and a seed. numpy only; float64 until the last rounding."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FIRST_WORD = 104  # below are special tokens
CLS, SEP, MASK = 101, 102, 103


def uniform(key: str, count: int) -> Array:
    """`count` numbers in [0, 1): a 32-bit finaliser over crc32(key) + i * golden ratio."""
    x = (np.uint64(zlib.crc32(key.encode())) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2.0**32


def signed(key: str, count: int) -> Array:
    """`count` numbers in [-1, 1)."""
    return 2.0 * uniform(key, count) - 1.0


def parameter(seed: str, name: str, shape: tuple[int, ...], temperature: float) -> Array:
    """float32 value of the parameter that the released code calls `name`."""
    if name == "temp":
        return np.full(shape, temperature, np.float32)
    values = signed(f"{seed}:{name}", math.prod(shape))
    if len(shape) >= 2:
        gain = 4.0 if name.endswith(("query.weight", "key.weight")) else 2.0
        values = gain / math.sqrt(math.prod(shape[1:])) * values
    elif name.endswith(".weight"):
        values = 1.0 + 0.2 * values
    else:
        values = 0.1 * values
    return values.astype(np.float32).reshape(shape)


def queue(seed: str, name: str, embed_dim: int, size: int) -> Array:
    """float32 (embed_dim, size), columns of unit length."""
    values = signed(f"{seed}:{name}", embed_dim * size).reshape(embed_dim, size)
    return (values / np.sqrt((values * values).sum(0, keepdims=True))).astype(np.float32)


def fingerprint(values: Array, name: str) -> tuple[float, float]:
    """L2 norm and projection on a direction that `name` fixes."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return float(np.sqrt((flat * flat).sum())), float((flat * signed("proj:" + name, flat.size)).sum())


def _lengths(key: str, batch: int, shortest: int, longest: int) -> list[int]:
    lengths = shortest + np.floor(uniform(key, batch) * (longest - shortest + 1)).astype(int)
    lengths[0] = longest
    return [int(length) for length in lengths]


def _tokens(key: str, batch: int, longest: int, vocab_size: int, lengths: list[int]) -> tuple[Array, Array]:
    draws = uniform(key, batch * longest).reshape(batch, longest)
    ids = FIRST_WORD + np.floor(draws * (vocab_size - FIRST_WORD)).astype(np.int64)
    mask = np.zeros((batch, longest), np.int64)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        ids[row, 0], ids[row, length - 1], ids[row, length:] = CLS, SEP, 0
    return ids, mask


def _mask_words(key: str, ids: Array, vocab_size: int) -> tuple[Array, Array]:
    select, how, word = (uniform(key + part, ids.size).reshape(ids.shape) for part in (":sel", ":how", ":word"))
    words = FIRST_WORD + np.floor(word * (vocab_size - FIRST_WORD)).astype(np.int64)
    chosen = (select < 0.3) & (ids != 0) & (ids != CLS)
    chosen[0, 1] = True
    corrupted = ids.copy()
    corrupted[chosen & (how < 0.8)] = MASK
    random_word = chosen & (how >= 0.8) & (how < 0.9)
    corrupted[random_word] = words[random_word]
    return corrupted, np.where(chosen, ids, -100)


def image_id_queue(size: int) -> Array:
    """int64 (size,): the picture behind each entry of the retrieval queues at the start, -100 where there is none."""
    slots = np.arange(size)
    return np.where(slots < size // 2, 5 * slots % 11, -100)


def batch(kind: str, config: dict[str, Any], step: int) -> dict[str, Array]:
    """Inputs of one step of a case of `kind`: image, ids, att, and what the kind has besides (README.md of the set)."""
    seed, size, length = config["seed"], config["batch"], config["text_len"]
    vocab_size, side = config["bert"]["vocab_size"], config["image_res"]
    num_images = 2 * size if kind == "nlvr" else size
    image = signed(f"{seed}:input.image.{kind}.{step}", num_images * 3 * side * side).astype(np.float32)
    lengths = _lengths(f"{seed}:input.len.{kind}.{step}", size, 4, length)
    ids, mask = _tokens(f"{seed}:input.ids.{kind}.{step}", size, length, vocab_size, lengths)
    inputs = {"image": image.reshape(num_images, 3, side, side), "ids": ids, "att": mask}
    if kind == "pretrain":
        inputs["mlm_ids"], inputs["mlm_labels"] = _mask_words(f"{seed}:input.mlm.{step}", ids, vocab_size)
    elif kind == "retrieval":
        inputs["idx"] = (7 + 3 * np.arange(size) + step) % 11
        inputs["idx"][2] = inputs["idx"][0]
    elif kind == "vqa":
        inputs |= _answers(config, step)
    else:
        inputs["targets"] = (np.arange(size) + step) % {"nlvr": 2, "ve": 3}[kind]
    return inputs


def _answers(config: dict[str, Any], step: int) -> dict[str, Array]:
    seed, length, vocab_size = config["seed"], config["ans_len"], config["bert"]["vocab_size"]
    counts = 1 + (2 * np.arange(config["batch"]) + step) % 3
    total = int(counts.sum())
    lengths = _lengths(f"{seed}:input.anslen.{step}", total, 3, length)
    ids, mask = _tokens(f"{seed}:input.ans.{step}", total, length, vocab_size, lengths)
    weights: list[float] = []
    for question, count in enumerate(counts):
        weights += [1.0 / count] * count if question % 2 else [0.3 * (number + 1) for number in range(count)]
    return {"k": counts, "ans_ids": ids, "ans_att": mask, "weights": np.array(weights, np.float32)}


def candidates(config: dict[str, Any]) -> tuple[Array, Array]:
    """The list of answers that is ranked: ids and mask, int64 (n_cand, ans_len)."""
    seed, count, length = config["seed"], config["n_cand"], config["ans_len"]
    lengths = _lengths(f"{seed}:input.candlen", count, 3, length)
    return _tokens(f"{seed}:input.cand", count, length, config["bert"]["vocab_size"], lengths)
