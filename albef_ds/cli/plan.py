"""`albef-ds plan`: what a run needs of each GPU's memory, and the settings that fit."""

from __future__ import annotations

import argparse
import json

from albef_ds.cli.arguments import CommandParser, add_config_arguments, config_from
from albef_ds.errors import ConfigError

EXAMPLES = """\
  the paper's run on 8 GPUs of 40 GB: settings that fit, to copy
      albef-ds plan --recipe pretrain_4m --preset 8x40
  one rank's memory as configured
      albef-ds plan --recipe pretrain_large --gpus 8
  is there room with a setting of one's own
      albef-ds plan --recipe pretrain_4m --gpus 4 --memory 24 engine.stage=2 train.micro_batch_size=16

With --memory, what is not set here (engine.stage, compute.checkpoint_*, train.micro_batch_size) is chosen: the simplest
that fits. Exit codes: 0 fits or no --memory given, 2 a mistake in what was given or nothing fits (one line says which)."""

_PRESETS = ("1x24", "4x24", "8x40", "8x80", "32x80")


def _gpus(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of GPUs: give 1 or more")
    return int(text)


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a size: give the GB of one GPU, such as 24")
    return value


def parser() -> CommandParser:
    """The arguments of `albef-ds plan`."""
    command = CommandParser("plan", "Count what a run needs of each GPU's memory and choose settings that fit.", EXAMPLES)
    add_config_arguments(command, required=True)
    command.add_argument("--gpus", type=_gpus, metavar="N", help="number of GPUs, one rank each (default 1)")
    command.add_argument("--memory", type=_gigabytes, metavar="GB", help="memory of one GPU, 1 GB = 2^30 bytes")
    command.add_argument("--preset", choices=_PRESETS, help="GPUs x GB in place of --gpus and --memory")
    command.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    return command


def main(argv: list[str]) -> int:
    """Print the plan. Raises `ConfigError` for anything the user can mend, too little memory included."""
    arguments = parser().parse_intermixed_args(argv)
    if arguments.preset and (arguments.gpus or arguments.memory):
        raise ConfigError("--preset gives both: leave --gpus and --memory out")
    config = config_from(arguments, [])
    # DeepSpeed reads its environment at import; planning needs no accelerator.
    import torch

    from albef_ds.zero.setup import prepare_environment

    prepare_environment(torch.device("cpu"))
    from albef_ds.planning import plan as planning
    from albef_ds.planning.counts import count
    from albef_ds.planning.search import PRESETS, recommend
    from albef_ds.planning.table import render, to_json

    gpus, gigabytes = PRESETS[arguments.preset] if arguments.preset else (arguments.gpus or 1, arguments.memory)
    memory = None if gigabytes is None else int(gigabytes * planning.GB)
    fixed = {override.partition("=")[0] for override in arguments.overrides}
    counts = count(config)
    choice = None
    if memory is not None and "engine.stage" not in fixed:
        choice = recommend(config, gpus, memory, fixed, counts)
        plan = choice.plan
    else:
        planning.check_micro_batch(config, gpus)
        plan = planning.make_plan(config, gpus, counts)
    largest = None if memory is None else planning.largest_micro_batch(plan.config, gpus, memory, counts)
    if arguments.json:
        print(json.dumps(to_json(plan, memory, largest, choice), indent=1))
    else:
        print(render(plan, memory, largest, choice))
    if memory is not None and plan.total > memory:
        room = f"train.micro_batch_size={largest} fits" if largest else "no micro-batch fits: raise engine.stage"
        raise ConfigError(f"the run needs {(plan.total - memory) / planning.GB:.1f} GB more than {gigabytes:g} GB: {room}")
    return 0
