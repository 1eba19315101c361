"""Whether each encoder of the scenes recipes, alone, learns at which place each colour is: to the left, right, top or bottom.

    OMP_NUM_THREADS=1 python -m benchmarks.binding --record

A linear head on [CLS] says for each colour of a scene where it is. An image shows it. A caption says it by the order of both
objects together with the relation, neither of which tells anything alone: "a red cross left of a blue square" and "a blue square
right of a red cross" are the same scene. Scores are on meanings that no training shows; 25 is chance, 50 knows the axis.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.config.recipes import get_recipe
from albef_ds.data.images.decode import resize
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids
from albef_ds.models.albef import ALBEF
from albef_ds.models.random_weights import initialise
from benchmarks.record import write_record
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes
from data_tools.scenes.meanings import COLOURS, MIRROR, RELATIONS

BATCH, RATE, WARMUP = 32, 1e-3, 100
PLACES, ABSENT, BOTH = len(RELATIONS), len(RELATIONS), -100
Encode = Callable[[list[int]], Tensor]


@dataclass(frozen=True)
class Scenes:
    """Images float32 (N, 3, S, S) and both captions of N scenes."""

    images: Tensor
    captions: list[list[str]]

    @classmethod
    def read(cls, shards: Path, side: int) -> Scenes:
        """Reads a corpus of scenes."""
        reader, images, captions = ShardReader(shards), [], []
        for number, count in enumerate(reader.counts):
            for row in range(count):
                image, meta = reader.read(number, row)
                images.append(resize(image, side * side, side))
                captions.append(json.loads(meta)["captions"])
        return cls(torch.stack(images), captions)


def places(caption: str) -> list[int]:
    """Number of the place of each colour: one of `RELATIONS`, ABSENT, or BOTH for the colour of both objects."""
    _, first, _, *relation, _, second, _ = caption.split()
    where = RELATIONS.index(" ".join(relation))
    found = [ABSENT] * len(COLOURS)
    found[COLOURS.index(first)], found[COLOURS.index(second)] = where, RELATIONS.index(MIRROR[RELATIONS[where]])
    if first == second:
        found[COLOURS.index(first)] = BOTH
    return found


def learned(
    encoder: str, layers: int, std: float, steps: int, seed: int, data: tuple[Scenes, Scenes], vocab: Path
) -> list[float]:
    """Accuracy in per cent after each quarter of `steps`, over the places of the colours of meanings outside training."""
    recipe = get_recipe("scenes_pretrain")
    text = replace(recipe.model.text, num_layers=layers)
    vision = replace(recipe.model.vision, depth=layers)
    albef = ALBEF(replace(recipe.model, text=text, vision=vision), recipe.compute)
    head = nn.Linear(text.width, len(COLOURS) * (PLACES + 1))
    initialise(nn.ModuleList([albef, head]), seed, std=std)
    tokens = CaptionTokenizer.from_config(replace(recipe.data, vocab_file=str(vocab)))
    generator = random.Random(seed)

    def batch(scenes: Scenes, rows: list[int]) -> tuple[Tensor, Tensor]:
        chosen = [generator.choice(scenes.captions[row]) for row in rows]
        if encoder == "image":
            embeds = albef.encode_image(scenes.images[rows])
        else:
            embeds = albef.encode_text(*pad_ids([tokens.read(caption)[1] for caption in chosen]))
        return head(embeds[:, 0]).view(-1, len(COLOURS), PLACES + 1), torch.tensor([places(caption) for caption in chosen])

    part = albef.visual_encoder if encoder == "image" else albef.text_encoder
    parameters = [*part.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
    train, test = data
    curve = []
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / WARMUP)
        logits, labels = batch(train, [generator.randrange(len(train.captions)) for _ in range(BATCH)])
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=BOTH).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % (steps // 4) == 0:
            with torch.no_grad():
                logits, labels = batch(test, list(range(len(test.captions))))
            asked = (labels >= 0) & (labels < PLACES)
            curve.append(100 * float((logits[..., :PLACES].argmax(-1) == labels)[asked].float().mean()))
    return curve


def main() -> None:
    """Trains all; `--record` writes the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/binding"), help="folder of the scenes")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how many scenes are made, 1 being the usual")
    parser.add_argument("--record", action="store_true", help="write benchmarks/binding.json and .md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    side = get_recipe("scenes_pretrain").model.vision.image_size
    write_scenes(given.runs, SceneSettings(side=side, grouped=0.25, counts=SceneCounts().scaled(given.scale)))
    data = (Scenes.read(given.runs / "pretrain" / "train", side), Scenes.read(given.runs / "pretrain" / "val", side))
    rows: list[dict[str, Any]] = []
    for encoder, layers, std in (
        ("image", 3, 0.02),
        ("image", 3, 0.08),
        *(("text", layers, std) for layers in (1, 2) for std in (0.02, 0.08)),
    ):
        curves = [learned(encoder, layers, std, given.steps, seed, data, given.runs / "vocab.txt") for seed in range(given.seeds)]
        row: dict[str, Any] = {"encoder": encoder, "layers": layers, "init.std": std}
        for quarter, values in enumerate(zip(*curves, strict=True), start=1):
            listed = ", ".join(f"{value:.0f}" for value in values)
            row[f"step {quarter * given.steps // 4}"] = f"{statistics.fmean(values):.1f} ({listed})"
        rows.append(row)
        print(" | ".join(str(value) for value in row.values()), flush=True)
    if given.record:
        notes = [
            f"Batches of {BATCH}, rate {RATE}; in per cent, mean and each of {given.seeds} seeds, on meanings outside training.",
            "25 is chance, and a model that knows the axis but not the side has 50.",
        ]
        facts = {"steps": given.steps, "seeds": given.seeds, "scale": given.scale}
        write_record(
            Path(__file__).with_name("binding"), "Places of colours by each encoder alone", notes, rows, ["torch"], facts
        )


if __name__ == "__main__":
    main()
