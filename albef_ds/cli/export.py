"""`albef-ds export`: writes a model's two towers and its matcher as ONNX and `torch.export` programs."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides
from albef_ds.cli.progress_bar import waiting

EXAMPLES = """\
  a run's newest checkpoint as ONNX files (needs `pip install albef-ds[onnx]`)
      albef-ds export runs/run exported --format onnx
  a released file, its momentum copy, for torch.export.load
      albef-ds export ALBEF.pth exported --format torch --weights momentum

Every program is compared with the model on another batch and text length before the folder appears."""


def main(argv: list[str]) -> int:
    """Exports the model. Raises `UserError` for a user's mistake."""
    command = CommandParser("export", "Write a model's image tower, text tower and matcher as programs.", EXAMPLES)
    command.add_argument("model", metavar="MODEL", help="file or folder, as for `albef-ds convert`")
    command.add_argument("folder", metavar="FOLDER", help="folder to write")
    command.add_argument("--format", choices=("onnx", "torch", "both"), default="both", help="which programs (both)")
    command.add_argument("--weights", choices=("student", "momentum"), default="student", help="which weights (student)")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    from albef_ds.checkpoint.formats.read import read_model  # start-up time
    from albef_ds.inference.export.programs import FORMATS, export

    with waiting("reading the model"):
        model = read_model(arguments.model, arguments.overrides).model.select(arguments.weights, queues=False)
    formats = FORMATS if arguments.format == "both" else (arguments.format,)
    with waiting("writing the programs and comparing them with the model"):
        differences = export(model, Path(arguments.folder), formats)
    for name, difference in differences.items():
        print(f"{arguments.folder}/{name}: differs from the model by at most {difference:.1e}")
    return 0
