"""`albef-ds evaluate`: scores a model on validation and test by its task's official metric; writes metrics.json."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from albef_ds.cli.arguments import CommandParser, add_overrides, whole_number
from albef_ds.cli.progress_bar import Bars
from albef_ds.common.errors import ConfigError
from albef_ds.common.model_path import check_exists
from albef_ds.common.run_files import RESULTS_NAME

if TYPE_CHECKING:
    import torch

EXAMPLES = """\
  a fine-tuned run: all checkpoints on validation, the best on test
      albef-ds evaluate runs/vqa data.test_annotations=test-dev=v2_OpenEnded_mscoco_test-dev2015_questions.json
  on several GPUs
      torchrun --nproc-per-node 8 -m albef_ds.cli.main evaluate runs/retrieval_coco
  the paper's zero-shot figure, refused for a model that was not fine-tuned on COCO
      albef-ds evaluate runs/retrieval_coco --protocol flickr30k_zero_shot \\
          data.test_annotations=flickr30k_test.json data.image_root=flickr30k data.eval_annotations=
  a released file
      albef-ds evaluate ALBEF_4M.pth --protocol flickr30k_pretrained data.test_annotations=... data.image_root=...
  check a file of answers before submitting it
      albef-ds evaluate --validate vqa_test_answers.json --questions v2_OpenEnded_mscoco_test2015_questions.json"""


def main(argv: list[str]) -> int:
    """Evaluates the model. Raises `ConfigError` for a user's mistake."""
    arguments = _parser().parse_intermixed_args(argv)
    if arguments.validate:
        return _validate(arguments)
    if arguments.path is None:
        raise ConfigError("no model is named: give a run, a checkpoint or a file of weights")
    path = Path(arguments.path)
    check_exists(path)
    import torch.distributed as dist  # start-up time

    from albef_ds.common import comm
    from albef_ds.common.device import resolve_device
    from albef_ds.common.progress import silent
    from albef_ds.evaluation.score_run import Request, score

    device = resolve_device(arguments.device)
    launched = _start_ranks(device)
    try:
        output = Path(arguments.output) if arguments.output else (path if path.is_dir() else path.parent)
        options = (arguments.weights, arguments.protocol, arguments.generate, arguments.layer, arguments.failures)
        request = Request(path, arguments.overrides, *options)
        plain = comm.rank() == 0 and not arguments.json
        record = score(request, output, device, print if plain else lambda line: None, Bars() if comm.rank() == 0 else silent)
        if plain:
            print(f"written: {output / RESULTS_NAME}")
        elif comm.rank() == 0:
            print(json.dumps(record, indent=1))
    finally:
        if launched:
            dist.destroy_process_group()
    return 0


def _start_ranks(device: torch.device) -> bool:
    """Joins the other ranks if a launcher started several; returns True if it did."""
    if int(os.environ.get("WORLD_SIZE") or "1") < 2:
        return False
    import torch  # start-up time
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return True


def _validate(arguments: argparse.Namespace) -> int:
    from albef_ds.metrics.vqa_submission import validate_submission  # start-up time

    if not arguments.questions:
        raise ConfigError("--validate needs the official questions: add --questions FILE")
    count = validate_submission(Path(arguments.validate), Path(arguments.questions))
    print(f"{arguments.validate}: {count} answers, every question of {arguments.questions} once")
    return 0


def _parser() -> CommandParser:
    command = CommandParser("evaluate", "Score a model by its task's official metric.", EXAMPLES)
    command.add_argument("path", nargs="?", metavar="PATH", help="run (its best checkpoint on validation), checkpoint or model")
    add_overrides(command, "change a setting, such as the test files")
    command.add_argument("--protocol", default="", metavar="NAME", help="zero-shot protocol (docs/evaluation.md lists them)")
    command.add_argument("--weights", choices=("student", "momentum"), default="student", help="weights to score (student)")
    command.add_argument("--generate", action="store_true", help="VQA: generate answers instead of ranking the list")
    command.add_argument("--layer", type=int, metavar="N", help="grounding: layer of Grad-CAM, from 0 (the middle one)")
    command.add_argument(
        "--failures",
        type=whole_number(0),
        default=24,
        metavar="N",
        help="retrieval: failed queries on the page of each split (24)",
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.add_argument("--output", metavar="DIR", help="folder of metrics.json; default: the run's")
    command.add_argument("--json", action="store_true", help="print the content of metrics.json instead of lines")
    command.add_argument("--validate", metavar="FILE", help="only check this file of VQA answers")
    command.add_argument("--questions", metavar="FILE", help="official questions for --validate")
    # The deepspeed launcher passes it to every rank; the rank itself is read from the environment.
    command.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return command
