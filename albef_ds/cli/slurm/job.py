"""`python -m albef_ds.cli.slurm.job begin|end|bad-nodes ... COMMAND ARGS`: what a batch script asks before and after the ranks.

`begin` notes a new attempt and refuses it when the restarts are used up or the job crashes in a loop. `end` reads how
the ranks ended and says what follows by its exit code; `bad-nodes` does so where preflight has named nodes. Starting jobs
again is the batch script's business.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from albef_ds.cli.arguments import config_from
from albef_ds.cli.main import guarded
from albef_ds.cli.train import parser
from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.common.exit_codes import MISTAKE, REQUEUE, STOP
from albef_ds.config.schema import RunConfig
from albef_ds.launch.slurm import outcome
from albef_ds.launch.slurm.attempts import Action, Decision, History, Outcome, after, before, newest_step

MAX_RESTARTS = 100
"""Default of ALBEF_MAX_RESTARTS."""

_CODES: dict[Action, int] = {"go": 0, "finish": 0, "requeue": REQUEUE, "stop": STOP}


def begin(argv: list[str]) -> int:
    """Note an attempt of `argv`; 0, or STOP where there must be none."""
    record = _record()
    step = _newest_step(argv)
    outcome_file(record).unlink(missing_ok=True)
    history = _history(record)
    decision = before(history.attempts(), _max_restarts())
    if decision.action == "go":
        history.begin(_number("SLURM_RESTART_COUNT", 0), os.environ.get("SLURM_JOB_NODELIST", ""), step)
    return _answer(decision)


def end(argv: list[str], launcher_code: int) -> int:
    """Note how the attempt ended; 0 when the run is finished, REQUEUE, or STOP (2 after a user's mistake)."""
    how, reason = outcome.read(outcome_file(_record()), launcher_code)
    code = _conclude(how, reason, argv)
    return MISTAKE if how == "mistake" else code


def bad_nodes(argv: list[str], names: str) -> int:
    """Note that the attempt ended because the nodes `names` are unfit; REQUEUE or STOP."""
    return _conclude("bad node", names, argv)


def _conclude(how: Outcome, reason: str, argv: list[str]) -> int:
    history = _history(_record())
    history.end(how, reason, _newest_step(argv))
    return _answer(after(history.attempts(), _max_restarts()))


def run_config(argv: list[str]) -> RunConfig | None:
    """The configuration of `albef-ds COMMAND ARGS`; None for commands that do not train."""
    command, *arguments = argv
    if command != "train":
        return None
    given = parser().parse_intermixed_args(arguments)
    return config_from(given, [f"output={given.output}"] if given.output else [])


def _newest_step(argv: list[str]) -> int:
    config = run_config(argv)
    return 0 if config is None else newest_step(Path(config.output))


def outcome_file(record: str) -> Path:
    """Where the ranks say how they ended."""
    return Path(f"{record}.outcome.json")


def _history(record: str) -> History:
    return History(Path(f"{record}.attempts.jsonl"))


def _record() -> str:
    record = os.environ.get("ALBEF_RECORD")
    if not record:
        raise MachineError("ALBEF_RECORD is not set: this is called by the scripts in slurm/, submit one of those")
    return record


def _max_restarts() -> int:
    return _number("ALBEF_MAX_RESTARTS", MAX_RESTARTS)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text} is no number: give 0 or more")
    return int(text)


def _answer(decision: Decision) -> int:
    if decision.reason:
        print(f"slurm: {decision.action}: {decision.reason}", flush=True)
    return _CODES[decision.action]


def main(argv: list[str]) -> int:
    """Run `begin`, `end CODE` or `bad-nodes NAMES`; its exit code."""
    what, *rest = argv
    if what == "begin":
        return guarded(lambda: begin(rest))
    if what == "end":
        return guarded(lambda: end(rest[1:], int(rest[0])))
    return guarded(lambda: bad_nodes(rest[1:], rest[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
