"""`albef-ds scenes`: writes the generated scenes with their annotation files and ceilings."""

from __future__ import annotations

import argparse
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, number_between, whole_number
from albef_ds.cli.progress_bar import Bars

EXAMPLES = """\
  everything, in a few minutes
      albef-ds scenes SCENES
  a twentieth of it, for a look
      albef-ds scenes SCENES --scale 0.05
  captions of which 30% belong to another scene
      albef-ds scenes NOISY --caption-noise 0.3
  emoji of the shipped corpus in place of coloured shapes
      albef-ds scenes EMOJI --nouns emoji"""


def main(argv: list[str]) -> int:
    """Writes the scenes that `argv` describes; returns the exit code."""
    command = CommandParser("scenes", "Write scenes of two objects and a relation for all tasks, with known ceilings.", EXAMPLES)
    command.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write")
    command.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="seed of all random choices (0)")
    command.add_argument("--side", type=whole_number(16), default=64, metavar="N", help="side of the images in pixels (64)")
    command.add_argument("--scale", type=number_between(0.001, 1000), default=1.0, metavar="X", help="factor on all counts (1)")
    for name, usual, meaning in (
        ("--grouped", 0.5, "pretraining groups with the relations of one pair"),
        ("--caption-noise", 0.0, "pretraining captions of another scene"),
        ("--label-noise", 0.0, "training answers and labels drawn at random"),
    ):
        text = f"share of {meaning} ({usual:g})"
        command.add_argument(name, type=number_between(0, 1), default=usual, metavar="SHARE", help=text)
    command.add_argument("--nouns", choices=("shapes", "emoji"), default="shapes", help="emoji: pretraining and retrieval only")
    arguments = command.parse_args(argv)
    if arguments.nouns == "emoji":
        return _emoji(arguments)
    from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes  # start-up time

    counts = SceneCounts().scaled(arguments.scale)
    settings = SceneSettings(
        arguments.seed, arguments.side, arguments.grouped, arguments.caption_noise, arguments.label_noise, counts
    )
    record = write_scenes(arguments.folder, settings, Bars())
    print(f"scenes in {arguments.folder}; highest possible scores of a model that knows:")
    for task, ceilings in record["ceilings"].items():
        galleries = ceilings if task == "retrieval" else {"": ceilings}
        for gallery, values in galleries.items():
            known = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
            print(f"  {task}{', ' + gallery if gallery else ''}: {known}")
    return 0


def _emoji(arguments: argparse.Namespace) -> int:
    from albef_ds.cli.demo.command import cache_folder  # start-up time
    from albef_ds.cli.demo.corpus import emoji_corpus
    from data_tools.scenes.corpus import SceneCounts
    from data_tools.scenes.emoji import emoji_nouns, write_emoji_scenes

    nouns = emoji_nouns(emoji_corpus(cache_folder()), arguments.seed)
    num_images = SceneCounts().scaled(arguments.scale).pretrain
    ceilings = write_emoji_scenes(arguments.folder, nouns, arguments.seed, num_images, arguments.side)
    print(f"scenes in {arguments.folder}: {', '.join(nouns.names.values())}")
    print(f"  retrieval: {', '.join(f'{name} {value:.1f}' for name, value in ceilings.items())}")
    return 0
