"""`albef-ds demo`: trains on the shipped emoji corpus, evaluates on held-out concepts and shows the results."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides, positive_number
from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.cli.demo.text_encoder import minilm_weights
from albef_ds.common.errors import MachineError
from albef_ds.common.run_files import LOGS_FOLDER
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.launch.local_ranks import default_ranks, launch, visible_cores

RECIPE = "demo_emoji"

EXAMPLES = """\
  six minutes of training on this machine's cores or GPUs, then the page
      albef-ds demo
  longer, in another folder, with one setting changed
      albef-ds demo --minutes 20 --output runs/longer task.alpha=0.2
  a quick test of all steps, without learning
      albef-ds demo train.max_steps=5"""


def main(argv: list[str]) -> int:
    """Runs the demonstration; returns the exit code of the training. Raises `UserError` for a user's mistake."""
    arguments = _parser().parse_intermixed_args(argv)
    from albef_ds.cli.demo.plots import check_matplotlib  # start-up time

    check_matplotlib()
    config, overrides, ranks = _plan(arguments)
    output = _free_folder(Path(arguments.output))
    cpu = config.engine.device == "cpu"
    threads = max(1, visible_cores() // ranks)
    where = f"{ranks} CPU ranks x {threads} threads" if cpu else f"{ranks} GPU ranks"
    print(f"training on {where}, {_length(config)}; results go to {output}", flush=True)
    command = [sys.executable, "-m", "albef_ds.train", "--recipe", RECIPE, *overrides, f"output={output}"]
    code = launch(command, ranks, threads, output / LOGS_FOLDER, cpu=cpu)
    if code != 0:
        return code
    from albef_ds.cli.demo.show import show_run  # start-up time

    print(show_run(output))
    return 0


def _parser() -> CommandParser:
    command = CommandParser("demo", "Train on the shipped emoji corpus and retrieve concepts that were held out.", EXAMPLES)
    command.add_argument("--minutes", metavar="N", type=positive_number, help="length of the training (the recipe's: 6)")
    command.add_argument("--output", metavar="DIR", default="runs/demo", help="folder of the run (runs/demo)")
    command.add_argument("--ranks", metavar="auto|N", type=_ranks, default=0, help="processes; auto: one per GPU or core")
    add_overrides(command, "change a setting of the recipe")
    return command


def _ranks(text: str) -> int:
    """The number of ranks; 0 means auto."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of ranks: give auto or a number from 1")
    return int(text)


def _free_folder(wanted: Path) -> Path:
    """Creates and returns `wanted`, or the first of NAME-2, NAME-3, ... if it is not empty, so that older runs are kept."""
    number, folder = 1, wanted
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    if folder != wanted:
        print(f"{wanted} is in use: this run is written to {folder}", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"--output {wanted} cannot be created ({error.strerror}): give another folder") from None
    return folder


def _plan(arguments: argparse.Namespace) -> tuple[RunConfig, list[str], int]:
    """The configuration, its overrides of the recipe, and the number of ranks."""
    given: list[str] = arguments.overrides
    corpus = emoji_corpus(cache_folder())
    overrides = [f"data.shards={corpus / 'train'}", f"data.eval_shards={corpus / 'val'}"]
    if not any(override.startswith(("init.text_encoder=", "init.checkpoint=")) for override in given):
        overrides.append(f"init.text_encoder={minilm_weights()}")
    if arguments.minutes is not None:
        overrides.append(f"train.max_minutes={arguments.minutes:g}")
    import torch  # start-up time

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        overrides += ["engine.device=cuda", "engine.precision=auto"]
    # The micro-batch depends on the number of ranks, which depends on the other settings. Until then, 2 fits any even batch.
    config = parse_overrides(get_recipe(RECIPE), [*overrides, "train.micro_batch_size=2", *given])
    workers = visible_cores() if config.engine.device == "cpu" or not gpus else gpus
    total = config.train.global_batch_size
    ranks: int = arguments.ranks or (1 if config.engine.kind == "local" else default_ranks(workers, total))
    if not any(override.startswith("train.micro_batch_size=") for override in given) and total % ranks == 0:
        overrides.append(f"train.micro_batch_size={total // ranks}")
    overrides += given
    config = parse_overrides(get_recipe(RECIPE), overrides)
    config.accumulation_steps(ranks)
    return config, overrides, ranks


def cache_folder() -> Path:
    """Creates and returns the folder in which corpora are unpacked: `$XDG_CACHE_HOME/albef_ds` or `~/.cache/albef_ds`.

    Raises:
        MachineError: it cannot be created.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "albef_ds"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder} cannot be created ({error.strerror}): set XDG_CACHE_HOME to a writable folder") from None
    return folder


def _length(config: RunConfig) -> str:
    limits = [f"{config.train.max_steps} steps"] if config.train.max_steps else []
    limits += [f"{config.train.max_minutes:g} minutes"] if config.train.max_minutes else []
    return " or ".join(limits) or f"{config.train.epochs:g} epochs"
