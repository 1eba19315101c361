"""`albef-ds train`: builds the configuration and hands it to the trainer."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_config_arguments, config_from, naming
from albef_ds.common.errors import ConfigError
from albef_ds.training.stop import parse_duration

EXAMPLES = """\
  a run of seconds that shows everything works
      albef-ds train --recipe debug data.shards=SHARDS
  the paper's 4M run on 8 GPUs
      deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_4m data.shards=SHARDS \\
          init.visual_encoder=VIT_FILE init.text_encoder=BERT_FOLDER
  the same with ZeRO-3, larger batches and another folder
      ... engine.stage=3 engine.ds_config=ds_configs/zero3.json train.micro_batch_size=128 --output runs/big
  go on where a run stopped, on any number of ranks
      albef-ds train --config runs/big/config.json --resume auto
  start from a whole model
      albef-ds train --recipe pretrain_4m --checkpoint ALBEF_4M.pth data.shards=SHARDS

Settings are applied from left to right, then --output and --checkpoint; of two values for one setting the later wins.
Exit codes: 0 finished; 2 a mistake in what was given (one line says which); 4 too many steps with numbers that are not finite;
5 the last checkpoint could not be written; 6 a rank died or was late; 75 the time of --stop-after is used up; 130 interrupted;
143 SIGTERM, SIGUSR1 or SIGUSR2. After 75, 130 and 143 there is a checkpoint: the same command with --resume auto goes on."""


def parser() -> CommandParser:
    """The arguments of `albef-ds train`."""
    command = CommandParser("train", "Pretrain ALBEF from a recipe or a configuration file.", EXAMPLES)
    add_config_arguments(command, required=True)
    command.add_argument("--output", metavar="DIR", help="folder of the run, the same as output=DIR")
    command.add_argument("--checkpoint", metavar="PATH", help="initial weights of the whole model, as init.checkpoint=PATH")
    command.add_argument(
        "--resume", metavar="PATH|auto", help="go on from a checkpoint folder; auto: the newest whole one in the output folder"
    )
    command.add_argument(
        "--stop-after",
        metavar="DURATION",
        help="save and leave with exit code 75 after so long, such as 3h50m, start-up included",
    )
    command.add_argument("--overwrite", action="store_true", help="delete an earlier run in the output folder")
    # The deepspeed launcher passes it to every rank; the rank itself is read from the environment.
    command.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return command


def main(argv: list[str]) -> int:
    """Train as `argv` says and return the exit code. Raises `ConfigError` for anything the user can mend."""
    arguments = parser().parse_intermixed_args(argv)
    extra = [
        f"{path}={value}"
        for path, value in (("output", arguments.output), ("init.checkpoint", arguments.checkpoint))
        if value is not None
    ]
    config = config_from(arguments, extra)

    if arguments.overwrite and arguments.resume is not None:
        raise ConfigError("--overwrite deletes the run that --resume would go on from: give one of them")
    with naming("--stop-after"):
        stop_after = None if arguments.stop_after is None else parse_duration(arguments.stop_after)

    # The trace of a lost connection is pages of torch's frames; the watchdog says it in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # torch and DeepSpeed load only after the command line has been found good
    from albef_ds.training.run import run  # start-up time
    from albef_ds.training.run_folder import is_used

    is_new = arguments.resume is None and not arguments.overwrite
    alone = int(os.environ.get("WORLD_SIZE") or "1") == 1  # of several ranks the first says it, in `run`
    if is_new and alone and is_used(Path(config.output)):
        raise ConfigError(
            f"output {config.output} holds a run already: go on with --resume auto, give another --output, or delete it with "
            "--overwrite"
        )

    return run(config, arguments.resume, stop_after=stop_after, overwrite=arguments.overwrite)
