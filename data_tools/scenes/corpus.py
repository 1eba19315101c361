"""Writes scenes for all tasks: shards for pretraining, and annotation files in the released and the official JSON formats.

    scenes.json                          settings, counts and ceilings; written last, so its presence marks a complete folder
    vocab.txt                            WordPiece vocabulary of every word used
    pretrain/train, pretrain/val         shards
    images/                              PNG files that the annotations name
    retrieval_{train,val,test,unseen}.json, karpathy.json
    vqa_{train,val,test}.json, answer_list.json, v2_questions_{val,test}.json, v2_annotations_val.json
    nlvr_{train,dev,test}.json, nlvr_official_dev.jsonl
    ve_{train,dev,test}.json, snli_ve_dev.jsonl
    refcoco_{train,val,test}.json, refs.json, instances.json, dets.json

The same seed and counts give the same bytes.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from albef_ds.common.errors import MachineError
from albef_ds.common.progress import Progress, silent
from data_tools.files.shard_writer import ShardWriter
from data_tools.scenes import annotations as task_files
from data_tools.scenes.ceilings import retrieval_ceilings, vqa_ceilings
from data_tools.scenes.folder import VOCABULARY, SceneFolder
from data_tools.scenes.meanings import HARD, Meaning, Thing, split_meanings
from data_tools.scenes.questions import all_texts
from data_tools.scenes.render import draw_scene
from data_tools.scenes.statements import PAIR_KINDS

DONE = "scenes.json"
GROUP = 4
"""Consecutive samples of the pretraining corpus that form a group: a pair's relations, or random scenes."""


@dataclass(frozen=True)
class SceneCounts:
    """Number of samples of each kind."""

    pretrain: int = 12_000
    retrieval: int = 4_000
    questions: int = 8_000
    nlvr: int = 6_000
    entailment: int = 6_000
    expressions: int = 4_000
    evaluation: int = 600
    """Samples of each validation and test file except the galleries."""
    gallery: int = 720
    """Images of the hard gallery: all of its meanings, or fewer for a quick look."""

    def scaled(self, scale: float) -> SceneCounts:
        """Counts times `scale`, at least 30; the hard gallery shrinks only below a quarter, to keep its known ceilings."""
        counts = {name: max(30, round(value * scale)) for name, value in vars(self).items()}
        return SceneCounts(**{**counts, "gallery": min(self.gallery, max(30, round(4 * scale * self.gallery)))})


@dataclass(frozen=True)
class SceneSettings:
    """Everything that determines a folder of scenes."""

    seed: int = 0
    side: int = 64
    grouped: float = 0.5
    """Share of the pretraining groups that hold the relations of one pair of objects, which are hard negatives."""
    caption_noise: float = 0.0
    """Share of the pretraining captions taken from another scene."""
    label_noise: float = 0.0
    """Share of the training answers and labels that are drawn at random."""
    counts: SceneCounts = SceneCounts()


def write_scenes(path: Path, settings: SceneSettings, progress: Progress = silent) -> dict[str, Any]:
    """Writes everything unless the folder is already complete with the same settings; returns the content of scenes.json.

    Raises MachineError if the folder holds scenes of other settings or other files, or cannot be made.
    """
    if (path / DONE).exists():
        from data_tools.files.storage import load_json  # optional package: pyarrow

        found: dict[str, Any] = load_json(path / DONE)
        if found.get("settings") != asdict(settings):
            raise MachineError(f"{path} holds scenes of other settings: give another folder, or remove it")
        return found
    folder = SceneFolder(path)
    split = split_meanings(settings.seed)
    folder.lines(VOCABULARY, vocabulary())
    for name, meanings, count in (
        ("train", split.train, settings.counts.pretrain),
        ("val", split.held_out, len(split.held_out)),
    ):
        _write_shards(path / "pretrain" / name, name, meanings, count, settings, progress)
    counts, seed, side, noise = asdict(settings.counts), settings.seed, settings.side, settings.label_noise
    writers: dict[str, Callable[[], Any]] = {
        "retrieval": lambda: task_files.write_retrieval(folder, seed, side, split, counts),
        "vqa": lambda: task_files.write_vqa(folder, seed, side, split, counts, noise),
        "nlvr": lambda: task_files.write_nlvr(folder, seed, side, split, counts, noise),
        "entailment": lambda: task_files.write_entailment(folder, seed, side, counts, noise),
        "grounding": lambda: task_files.write_grounding(folder, seed, side, counts),
    }
    everything = {}
    for number, (task, write) in enumerate(writers.items(), start=1):
        everything[task] = write()
        progress("tasks", number, len(writers))
    ceilings: dict[str, Any] = {**everything, "vqa": vqa_ceilings()}
    ceilings["retrieval"] = {
        "hard gallery": retrieval_ceilings(HARD[: settings.counts.gallery]),
        "unseen meanings": retrieval_ceilings(split.held_out),
    }
    record = {"settings": asdict(settings), "ceilings": ceilings}
    folder.json(DONE, record)
    return record


def vocabulary() -> list[str]:
    """Special tokens, then every word used in the captions and other texts."""
    words = {word for text in _texts() for word in text.lower().split()}
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]


def _texts() -> list[str]:
    statements = ["both pictures show a", "only one picture shows a", "the left picture shows a", "there is a on the right"]
    return [*(caption for meaning in HARD for caption in meaning.captions()), *all_texts(), *statements, *PAIR_KINDS]


def _write_shards(
    path: Path, name: str, meanings: Sequence[Meaning], count: int, settings: SceneSettings, progress: Progress
) -> None:
    if path.exists():  # left by an interrupted run: the folder is not marked as complete
        shutil.rmtree(path)
    generator = random.Random(f"{name} {settings.seed}")
    order = list(meanings) if name != "train" else grouped_order(meanings, count, settings.grouped, generator)
    numbers = {meaning: number for number, meaning in enumerate(meanings)}
    with ShardWriter(path, samples_per_shard=4096, info={"source": "scenes", "seed": settings.seed}) as writer:
        for number, meaning in enumerate(order, start=1):
            noisy = name == "train" and generator.random() < settings.caption_noise
            described = generator.choice(meanings) if noisy else meaning
            drawn = draw_scene(meaning, generator, settings.side)
            # Images of one meaning are not negatives of each other's captions, unless a caption is wrong.
            image_id = f"{name}-{numbers[meaning]}" + (f"-told-{numbers[described]}" if noisy else "")
            writer.add(drawn.png, "png", {"captions": described.captions(), "image_id": image_id, "source": "scenes"})
            progress(f"pretrain/{name}", number, len(order))


def grouped_order(meanings: Sequence[Meaning], count: int, grouped: float, generator: random.Random) -> list[Meaning]:
    """`count` meanings in groups of GROUP; a `grouped` share of the groups holds the relations of one pair, padded at random."""
    pairs: dict[tuple[Thing, Thing], list[Meaning]] = {}
    for meaning in meanings:
        pairs.setdefault(meaning.things, []).append(meaning)
    order: list[Meaning] = []
    while len(order) < count:
        group = list(generator.choice(list(pairs.values()))) if generator.random() < grouped else []
        order += group + generator.sample(list(meanings), GROUP - len(group))
    return order[:count]
