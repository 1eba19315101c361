"""`albef-ds scenes`: writes the generated scenes with their annotation files and ceilings."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser

EXAMPLES = """\
  everything, in a few minutes
      albef-ds scenes SCENES
  a twentieth of it, for a look
      albef-ds scenes SCENES --scale 0.05
  captions of which 30% belong to another scene
      albef-ds scenes NOISY --caption-noise 0.3"""


def main(argv: list[str]) -> int:
    """Write scenes as `argv` says."""
    command = CommandParser("scenes", "Write scenes of two objects and a relation for all tasks, with known ceilings.", EXAMPLES)
    command.add_argument("folder", metavar="FOLDER", type=Path, help="where to")
    command.add_argument("--seed", type=int, default=0, help="of everything (0)")
    command.add_argument("--side", type=int, default=64, help="side of the pictures in pixels (64)")
    command.add_argument("--scale", type=float, default=1.0, help="how much of everything is written, 1 being the usual")
    command.add_argument(
        "--grouped", type=float, default=0.5, help="share of pretraining groups with the relations of one pair (0.5)"
    )
    command.add_argument("--caption-noise", type=float, default=0.0, help="share of pretraining captions of another scene (0)")
    arguments = command.parse_args(argv)
    from albef_ds.scenes.corpus import Counts, SceneSettings, write_scenes

    counts = Counts().scaled(arguments.scale)
    settings = SceneSettings(arguments.seed, arguments.side, arguments.grouped, arguments.caption_noise, counts)
    record = write_scenes(arguments.folder, settings)
    print(f"scenes in {arguments.folder}; most that a model can score which knows:")
    for task, ceilings in record["ceilings"].items():
        galleries = ceilings if task == "retrieval" else {"": ceilings}
        for gallery, values in galleries.items():
            known = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
            print(f"  {task}{', ' + gallery if gallery else ''}: {known}")
    return 0
