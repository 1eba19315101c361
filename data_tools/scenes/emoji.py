"""Scenes with emoji as nouns: the 24 objects are concepts of the shipped corpus, so words and images are real.

For retrieval and pretraining only: questions about colours and shapes have no meaning here. Only the ceilings of scenes that
do not depend on colours apply: an object has one name.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from albef_ds.common.errors import DataError
from albef_ds.data.shards.reader import ShardReader
from data_tools.files.shard_writer import ShardWriter
from data_tools.scenes.ceilings import RETRIEVAL_VIEWS, retrieval_ceiling
from data_tools.scenes.folder import VOCABULARY, SceneFolder
from data_tools.scenes.meanings import MEANINGS, RELATIONS, THINGS, Meaning, Thing, split_meanings
from data_tools.scenes.render import draw_scene

STYLE = "noto"
"""Set whose drawings represent the objects."""


@dataclass(frozen=True)
class Nouns:
    """A name and an image for each object."""

    names: dict[Thing, str]
    stamps: dict[Thing, Image.Image]

    def name(self, thing: Thing) -> str:
        """Name of `thing`."""
        return self.names[thing]


def emoji_nouns(corpus: Path, seed: int) -> Nouns:
    """24 concepts with one-word names from the unpacked `corpus`, drawn with `seed`. Raises DataError if there are too few."""
    reader = ShardReader(corpus / "train")
    found: dict[str, bytes] = {}
    for shard, count in enumerate(reader.counts):
        for row in range(count):
            meta = json.loads(reader.read_meta(shard, row))
            label = str(meta.get("label", "")).lower()
            if meta["source"] == STYLE and label.isalpha() and label.isascii() and label not in found:
                found[label] = reader.read(shard, row)[0]
    if len(found) < len(THINGS):
        raise DataError(f"{corpus} has {len(found)} concepts with one-word names, {len(THINGS)} are needed: build it again")
    labels = random.Random(f"nouns {seed}").sample(sorted(found), len(THINGS))
    names = dict(zip(THINGS, labels, strict=True))
    return Nouns(names, {thing: _on_white(found[name]) for thing, name in names.items()})


def write_emoji_scenes(path: Path, nouns: Nouns, seed: int, num_images: int, side: int) -> dict[str, float]:
    """Writes pretrain/{train,val}, retrieval_test.json (an image of every meaning) and vocab.txt; returns the ceilings."""
    folder, split, generator = SceneFolder(path), split_meanings(seed), random.Random(f"emoji scenes {seed}")
    words = {word for relation in RELATIONS for word in relation.split()} | {"a"} | set(nouns.names.values())
    folder.lines(VOCABULARY, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)])

    def write(name: str, meanings: list[Meaning]) -> None:
        target = path / "pretrain" / name
        shutil.rmtree(target, ignore_errors=True)
        with ShardWriter(target, samples_per_shard=4096, info={"source": "emoji scenes", "seed": seed}) as writer:
            for meaning in meanings:
                png, captions = draw_scene(meaning, generator, side, nouns.stamps).png, meaning.captions(nouns.name)
                writer.add(png, "png", {"captions": captions, "image_id": captions[0], "source": "scenes"})

    write("train", [generator.choice(split.train) for _ in range(num_images)])
    write("val", list(split.held_out))
    rows = [
        {
            "image": folder.image(f"retrieval/{number:06d}", draw_scene(meaning, generator, side, nouns.stamps)),
            "caption": [meaning.caption(number % 2 == 1, nouns.name)],
        }
        for number, meaning in enumerate(MEANINGS)
    ]
    folder.json("retrieval_test.json", rows)
    named = ("everything", "objects, no relation")
    return {name: retrieval_ceiling([RETRIEVAL_VIEWS[name](meaning) for meaning in MEANINGS]) for name in named}


def _on_white(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
