"""`albef-ds plan`: counts the memory a run needs on each GPU, finds settings that fit, and estimates its speed."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from albef_ds.cli.arguments import CommandParser, add_config_arguments, config_from, positive_number, whole_number
from albef_ds.common.errors import ConfigError, UserError
from albef_ds.config.schema import RunConfig

EXAMPLES = """\
  settings for the paper's run that fit 8 GPUs of 40 GB
      albef-ds plan --recipe pretrain_4m --preset 8x40
  one rank's memory as configured
      albef-ds plan --recipe pretrain_large --gpus 8
  check settings of your own
      albef-ds plan --recipe pretrain_4m --gpus 4 --memory 24 engine.stage=2 train.micro_batch_size=16
  images per second, hours and efficiency on 1 to 1,024 GPUs, from the measured rate of one GPU, and the fastest settings
      albef-ds plan --recipe pretrain_14m --gpus 64 --throughput --hardware h100 --rate 310 train.global_batch_size=4096

With --memory, the simplest fitting values are chosen for engine.stage, compute.checkpoint_* and train.micro_batch_size unless
given here. With --throughput, the fastest ones are recommended for these and for engine.momentum_group and engine.ds_config; the
global batch is kept. Exit codes: 0 fits or no --memory given, 2 a user's mistake or nothing fits (one line says which)."""

_PRESETS = ("1x24", "4x24", "8x40", "8x80", "32x80")
_HARDWARE = ("a100", "a100-ethernet", "h100")


def parser() -> CommandParser:
    """The arguments of `albef-ds plan`."""
    command = CommandParser("plan", "Count the memory a run needs on each GPU and choose settings that fit.", EXAMPLES)
    add_config_arguments(command, required=True)
    command.add_argument("--gpus", type=whole_number(1), metavar="N", help="number of GPUs, one rank each (default 1)")
    command.add_argument("--memory", type=positive_number, metavar="GB", help="memory of one GPU, 1 GB = 2^30 bytes")
    nodes = "GPUs of a node: engine.momentum_group=node, links (default 8)"
    command.add_argument("--gpus-per-node", type=whole_number(1), metavar="N", help=nodes)
    command.add_argument("--preset", choices=_PRESETS, help="GPUs x GB, instead of --gpus and --memory")
    command.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    speed = command.add_argument_group("throughput", "by a model of compute, network and loader (docs/performance.md)")
    shown = "print images per second, hours, efficiency and the fastest settings that fit --memory (default: the hardware's)"
    speed.add_argument("--throughput", action="store_true", help=shown)
    speed.add_argument("--hardware", choices=_HARDWARE, default="h100", help="kind of cluster (default %(default)s)")
    speed.add_argument("--rate", type=positive_number, metavar="TFLOP/s", help="measured rate of one GPU")
    speed.add_argument("--network", type=positive_number, metavar="Gbit/s", help="per GPU between nodes, instead of the preset's")
    speed.add_argument("--loader", type=positive_number, metavar="IMAGES/s", help="of one GPU's loader processes")
    speed.add_argument("--fixed-batch", action="store_true", help="keep the global batch at every number of GPUs")
    return command


def _check_speeds(arguments: argparse.Namespace) -> None:
    given = [name for name in ("rate", "network", "loader", "fixed_batch") if getattr(arguments, name)]
    if given and not arguments.throughput:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for speed only: add --throughput")


def main(argv: list[str]) -> int:
    """Prints the plan. Raises `ConfigError` for a user's mistake or too little memory."""
    arguments = parser().parse_intermixed_args(argv)
    if arguments.preset and (arguments.gpus or arguments.memory):
        raise ConfigError("--preset gives both: leave --gpus and --memory out")
    _check_speeds(arguments)
    config = config_from(arguments, [])
    if arguments.throughput:
        _print_throughput(config, arguments)
        return 0
    from albef_ds.launch.planning import plan as planning  # start-up time
    from albef_ds.launch.planning.parameter_counts import count
    from albef_ds.launch.planning.plan_table import render, to_json
    from albef_ds.launch.planning.settings_search import PRESETS, recommend

    gpus, gigabytes = PRESETS[arguments.preset] if arguments.preset else (arguments.gpus or 1, arguments.memory)
    node_size = arguments.gpus_per_node or planning.NODE_SIZE
    memory = None if gigabytes is None else int(gigabytes * planning.GB)
    fixed = {override.partition("=")[0] for override in arguments.overrides}
    counts = count(config)
    choice = None
    if memory is not None and "engine.stage" not in fixed:
        choice = recommend(config, gpus, memory, fixed, counts, node_size)
        plan = choice.plan
    else:
        planning.check_micro_batch(config, gpus)
        plan = planning.make_plan(config, gpus, counts, node_size)
    largest = None if memory is None else planning.largest_micro_batch(plan.config, gpus, memory, counts, node_size)
    shown = plan, memory, largest, choice
    print(json.dumps(to_json(*shown), indent=1) if arguments.json else render(*shown))
    if memory is not None and plan.total > memory:
        room = f"train.micro_batch_size={largest} fits" if largest else "no micro-batch fits: raise engine.stage"
        raise ConfigError(f"the run needs {(plan.total - memory) / planning.GB:.1f} GB more than {gigabytes:g} GB: {room}")
    return 0


def _print_throughput(config: RunConfig, arguments: argparse.Namespace) -> None:
    from albef_ds.launch.planning.hardware import PRESETS, Link  # start-up time
    from albef_ds.launch.planning.parameter_counts import count
    from albef_ds.launch.planning.plan import GB, check_micro_batch
    from albef_ds.launch.planning.settings_search import PRESETS as SIZES
    from albef_ds.launch.planning.throughput import forecast, scaling, with_smaller_micro_batch
    from albef_ds.launch.planning.throughput_search import recommend_speed
    from albef_ds.launch.planning.throughput_table import recommended, render, to_json

    gpus, gigabytes = SIZES[arguments.preset] if arguments.preset else (arguments.gpus or 1, arguments.memory)
    fixed = {override.partition("=")[0] for override in arguments.overrides}
    if "train.micro_batch_size" not in fixed:
        config = with_smaller_micro_batch(config, gpus)
    check_micro_batch(config, gpus)
    hardware = PRESETS[arguments.hardware]
    if arguments.rate:
        hardware = replace(hardware, rate=arguments.rate * 1e12)
    if arguments.network:
        hardware = replace(hardware, between=Link(arguments.network * 1e9 / 8, hardware.between.latency))
    if arguments.loader:
        hardware = replace(hardware, images=arguments.loader)
    if arguments.gpus_per_node:
        hardware = replace(hardware, per_node=arguments.gpus_per_node)
    counts = count(config)
    one = forecast(config, counts, hardware, gpus)
    rows = scaling(config, counts, hardware, arguments.fixed_batch)
    found, advice = None, []
    try:
        found = recommend_speed(config, counts, hardware, gpus, gigabytes * GB if gigabytes else hardware.memory, fixed)
        advice = recommended(found)
    except UserError as error:  # the prediction holds nevertheless
        advice = [str(error)]
    shown = json.dumps(to_json(one, rows, found), indent=1) if arguments.json else None
    print(shown or render(one, rows, arguments.fixed_batch, advice))
