"""`albef-ds convert`: converts a model from one storage format to another."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides, whole_number
from albef_ds.cli.progress_bar import counting

EXAMPLES = """\
  a released file as a model folder, with the weights that are used for features
      albef-ds convert ALBEF_4M.pth albef-4m --to folder
  a run's newest checkpoint as one file of half the size, without the momentum copy
      albef-ds convert runs/run model.safetensors --to safetensors --dtype bf16 --weights student
  our model for the released code, or for LAVIS
      albef-ds convert runs/run model.pth --to released
  split a file, showing only which tensor would be written where
      albef-ds convert runs/run model.safetensors --to safetensors --max-shard 500 --dry-run
  a ViT and a BERT as the start of a model
      albef-ds convert deit.pth start --to folder --bert bert-base-uncased

The format of SRC is detected: released file (any kind, bare or in a training dict), LAVIS file, our safetensors, model folder,
run or checkpoint folder (any ZeRO stage and world size). Settings that a released file does not hold, such as the number of
attention heads of an uncommon width, are given as section.field=value. No code in a file is ever executed."""


def main(argv: list[str]) -> int:
    """Converts the model. Raises `UserError` for a user's mistake."""
    arguments = _parser().parse_intermixed_args(argv)
    from albef_ds.checkpoint.formats.read import read_model  # start-up time
    from albef_ds.checkpoint.formats.write import Options, convert, mapping
    from albef_ds.checkpoint.initial.load import read_encoders

    options = Options(
        form=arguments.to,
        weights=arguments.weights or ("student" if arguments.to == "folder" else "both"),
        queues=arguments.queues == "keep" if arguments.queues else arguments.to != "folder",
        dtype=arguments.dtype,
        max_shard_bytes=arguments.max_shard * 1_000_000,
        wrapped={None: None, "yes": False, "no": True}[arguments.bare],
        bert={None: None, "yes": True, "no": False}[arguments.bert_prefix],
        overwrite=arguments.overwrite,
    )
    source, given = Path(arguments.src), arguments.overrides
    found = read_model(source, given) if arguments.bert is None else read_encoders(source, Path(arguments.bert), given)
    model = found.model
    print(f"{arguments.src}: {found.form}, {model.kind}, {model.parameters:,} parameters")
    for remark in model.remarks:
        print(f"  {remark}")
    if model.unused:
        print(f"  not used: {', '.join(model.unused)}")
    if arguments.dry_run:
        for there, ours, here, shape in mapping(model, options):
            print(f"  {there}  ->  {ours}  ->  {here}  {shape}" if ours != here else f"  {there}  ->  {here}  {shape}")
        print("nothing was written (--dry-run)")
        return 0
    with counting("writing the model") as progress:
        written = convert(found, Path(arguments.dst), options, progress)
    print(f"{', '.join(map(str, written.files))}: {written}")
    print(f"  sha256 {written.sha256}")
    return 0


def _parser() -> CommandParser:
    command = CommandParser("convert", "Write a model in another format, read it back and compare.", EXAMPLES)
    command.add_argument("src", metavar="SRC", help="file or folder to read")
    command.add_argument("dst", metavar="DST", help="file or folder to write")
    command.add_argument("--to", required=True, choices=("released", "lavis", "safetensors", "folder"), help="format of DST")
    command.add_argument("--weights", choices=("student", "momentum", "both"), help="which weights (both; for a folder: student)")
    command.add_argument("--queues", choices=("keep", "drop"), help="the ITC feature queues (keep; for a folder: drop)")
    command.add_argument("--dtype", choices=("keep", "fp32", "bf16", "fp16"), default="keep", help="precision (keep)")
    command.add_argument("--max-shard", metavar="MB", type=whole_number(1), default=0, help="split into files of at most MB")
    command.add_argument("--bare", choices=("yes", "no"), help="released format: omit the key `model` (as in SRC; no)")
    prefix_help = "released format: `text_encoder.bert.` (as in SRC; for pretraining only)"
    command.add_argument("--bert-prefix", choices=("yes", "no"), help=prefix_help)
    command.add_argument("--bert", metavar="PATH", help="BERT to combine with SRC, a ViT or DeiT file")
    command.add_argument("--overwrite", action="store_true", help="replace DST")
    command.add_argument("--dry-run", action="store_true", help="print which tensor goes where and write nothing")
    add_overrides(command, "settings that SRC does not hold")
    return command
