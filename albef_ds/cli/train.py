"""`albef-ds train`: builds the configuration and starts the trainer."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_config_arguments, config_from, naming
from albef_ds.common.errors import ConfigError
from albef_ds.config.ds_config import load_ds_config
from albef_ds.training.stop import parse_duration

EXAMPLES = """\
  a run of a few seconds, to see that everything works
      albef-ds train --recipe debug data.shards=SHARDS
  the paper's 4M run on 8 GPUs
      deepspeed --num_gpus 8 albef_ds/train.py --recipe pretrain_4m data.shards=SHARDS \\
          init.visual_encoder=VIT_FILE init.text_encoder=BERT_FOLDER
  the same with ZeRO-3, larger batches and another folder
      ... engine.stage=3 engine.ds_config=ds_configs/zero3.json train.micro_batch_size=128 --output runs/big
  continue a stopped run, on any number of ranks
      albef-ds train --config runs/big/config.json --resume auto
  start from a complete model
      albef-ds train --recipe pretrain_4m --checkpoint ALBEF_4M.pth data.shards=SHARDS

Settings are applied from left to right, then --output and --checkpoint; the last value of a setting wins.
Exit codes: 0 finished; 2 a user's mistake (one line says which); 4 too many steps with numbers that are not finite; 5 the last
checkpoint could not be written; 6 a rank died or was late; 75 the time of --stop-after is used up; 130 interrupted; 143 SIGTERM,
SIGUSR1 or SIGUSR2. After 75, 130 and 143 there is a checkpoint: the same command with --resume auto continues."""


def parser() -> CommandParser:
    """The arguments of `albef-ds train`."""
    command = CommandParser("train", "Pretrain ALBEF from a recipe or a configuration file.", EXAMPLES)
    add_config_arguments(command, required=True)
    command.add_argument("--output", metavar="DIR", help="folder of the run, the same as output=DIR")
    command.add_argument("--checkpoint", metavar="PATH", help="initial weights of the whole model, as init.checkpoint=PATH")
    resume_help = "continue from a checkpoint folder; auto: the newest complete one in the output folder"
    command.add_argument("--resume", metavar="PATH|auto", help=resume_help)
    stop_help = "save and exit with code 75 after this time, start-up included, such as 3h50m"
    command.add_argument("--stop-after", metavar="DURATION", help=stop_help)
    command.add_argument("--overwrite", action="store_true", help="delete an earlier run in the output folder")
    # The deepspeed launcher passes it to every rank; the rank itself is read from the environment.
    command.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return command


def main(argv: list[str]) -> int:
    """Trains and returns the exit code. Raises `ConfigError` for a user's mistake."""
    arguments = parser().parse_intermixed_args(argv)
    given = {"output": arguments.output, "init.checkpoint": arguments.checkpoint}
    config = config_from(arguments, [f"{path}={value}" for path, value in given.items() if value is not None])
    if arguments.overwrite and arguments.resume is not None:
        raise ConfigError("--overwrite deletes the run that --resume would continue: give one of them")
    with naming("--stop-after"):
        stop_after = None if arguments.stop_after is None else parse_duration(arguments.stop_after)
    if config.engine.ds_config:
        load_ds_config(Path(config.engine.ds_config), config.engine.stage)  # raises for a mistake in the file
    # After a lost connection torch prints pages of stack frames; the watchdog reports it in one line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # torch and DeepSpeed are imported only after the command line was checked
    from albef_ds.checkpoint.foreign_names import ask_for_heads  # start-up time
    from albef_ds.training.run import run
    from albef_ds.training.run_folder import is_used

    if arguments.config is None:
        ask_for_heads(config, [override.partition("=")[0] for override in arguments.overrides])
    is_new = arguments.resume is None and not arguments.overwrite
    alone = int(os.environ.get("WORLD_SIZE") or "1") == 1  # with several ranks, `run` reports it on the first
    if is_new and alone and is_used(Path(config.output)):
        raise ConfigError(
            f"output {config.output} holds a run already: continue it with --resume auto, give another --output, or delete it "
            "with --overwrite"
        )
    return run(config, arguments.resume, stop_after=stop_after, overwrite=arguments.overwrite)
