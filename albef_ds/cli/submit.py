"""`albef-ds submit`: shows a job, lets Slurm check it, submits it and follows its log."""

from __future__ import annotations

import argparse
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, whole_number
from albef_ds.cli.slurm.data_chain import chain
from albef_ds.cli.slurm.job import run_config
from albef_ds.launch.slurm.site import Site
from albef_ds.launch.slurm.submit import Submission, follow, plan_text, scripts_folder

EXAMPLES = """\
  show the job, its plan and Slurm's check, without submitting
      albef-ds submit --dry-run --nodes 4 --gpus-per-node 8 --time 24:00:00 --recipe pretrain_14m data.shards=SHARDS \\
          init.visual_encoder=VIT_FILE init.text_encoder=BERT_FOLDER output=runs/14m
  submit it and watch
      albef-ds submit --follow --nodes 4 ...
  check the nodes only
      albef-ds submit --job preflight --nodes 4 --recipe pretrain_14m data.shards=SHARDS output=runs/14m
  the data chain in arrays of 64 tasks, each stage after the previous one
      albef-ds submit --job data --tasks 64 --time 8:00:00 --sbatch=--cpus-per-task=16 --work work --out corpus \\
          --samples-per-shard 10000 --source cc12m=img2dataset:/data/cc12m

All other arguments are passed to the job: those of `albef-ds train`, `evaluate` or `albef-data build`. Partition, account and
the like are in slurm/site.env. Exit codes: 0, 1 a followed job failed, 2 a user's mistake."""

_JOBS = ("pretrain", "finetune", "evaluate", "preflight", "data")


def parser() -> CommandParser:
    """The arguments of `albef-ds submit`; all others are passed to the job."""
    command = CommandParser("submit", "Submit a job to Slurm after showing its plan.", EXAMPLES)
    command.add_argument("--job", choices=_JOBS, default="pretrain", help="which script of slurm/ (pretrain)")
    command.add_argument("--nodes", type=whole_number(1), default=1, metavar="N", help="nodes (1)")
    command.add_argument(
        "--gpus-per-node", type=whole_number(1), default=8, metavar="N", help="GPUs of each, one rank per GPU (8)"
    )
    command.add_argument("--tasks", type=whole_number(1), default=8, metavar="N", help="array tasks of the data chain (8)")
    command.add_argument("--time", metavar="TIME", help="time limit of one attempt, as for sbatch; the job continues after it")
    command.add_argument("--memory", type=float, metavar="GB", help="memory of one GPU; a run that needs more is refused")
    command.add_argument("--site", type=Path, metavar="FILE", help="site file (slurm/site.env)")
    command.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="sbatch option: --sbatch=--exclusive")
    command.add_argument("--follow", action="store_true", help="print the log until the job has ended; Ctrl-C leaves it running")
    command.add_argument("--dry-run", action="store_true", help="show and check, do not submit")
    return command


def main(argv: list[str]) -> int:
    """Submits the job. Raises `UserError` for a user's mistake or a refusal by Slurm."""
    arguments, passed = parser().parse_known_args(argv)
    site_file = arguments.site or scripts_folder() / "site.env"
    site = Site.load(site_file) if arguments.site or site_file.exists() else Site()
    if arguments.job == "data":
        return _submit_chain(arguments, passed, site)
    options = [f"--nodes={arguments.nodes}", f"--gpus-per-node={arguments.gpus_per_node}", *_common(arguments)]
    submission = Submission(f"{arguments.job}.sbatch", passed, site, options)
    print(submission.shown())
    config = None if arguments.job == "evaluate" else run_config(["train", *passed])
    print(submission.check(), flush=True)
    if config is not None:
        print(plan_text(config, arguments.nodes, arguments.gpus_per_node, arguments.memory), flush=True)
    if arguments.dry_run:
        return 0
    job = submission.submit()
    print(f"job {job}, log {submission.logs}/albef-{arguments.job}-{job}.log", flush=True)
    return follow(job, submission.logs) if arguments.follow else 0


def _submit_chain(arguments: argparse.Namespace, passed: list[str], site: Site) -> int:
    """Submits the stages, each to start when the previous one has succeeded."""
    before = ""
    for number, stage in enumerate(chain(passed, arguments.tasks)):
        options = [f"--job-name=albef-data-{stage.stage.name}", *_common(arguments)]
        if stage.num_tasks is not None:
            options.append(f"--array=0-{stage.num_tasks - 1}")
        if before:
            options += [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"]
        submission = Submission("data.sbatch", stage.arguments, site, options)
        print(submission.shown())
        if number == 0:
            print(submission.check(), flush=True)
        before = "JOB_BEFORE" if arguments.dry_run else submission.submit()
        if not arguments.dry_run:
            print(f"job {before}: {stage.stage.name}", flush=True)
    if arguments.follow and not arguments.dry_run:
        return follow(before, submission.logs)
    return 0


def _common(arguments: argparse.Namespace) -> list[str]:
    return [*([f"--time={arguments.time}"] if arguments.time else []), *arguments.sbatch]
