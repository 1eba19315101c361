"""`python -m albef_ds.cli.slurm.job begin|end|bad-nodes ... COMMAND ARGS`: called by batch scripts before and after the ranks.

`begin` records a new attempt and refuses it when the restarts are used up or the job crashes in a loop. `end` reads how the ranks
ended; `bad-nodes` is called if preflight has named unfit nodes. The exit code of both tells the batch script whether to requeue.
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
    """Records a new attempt of `argv`; returns 0, or STOP if there must be no other attempt."""
    record, step = _record(), _newest_step(argv)
    outcome_file(record).unlink(missing_ok=True)
    history = _history(record)
    decision = before(history.attempts(), _max_restarts())
    if decision.action == "go":
        history.begin(_number("SLURM_RESTART_COUNT", 0), os.environ.get("SLURM_JOB_NODELIST", ""), step)
    return _answer(decision)


def end(argv: list[str], launcher_code: int) -> int:
    """Records how the attempt ended; returns 0 if the run is finished, REQUEUE, STOP, or 2 after a user's mistake."""
    how, reason = outcome.read(outcome_file(_record()), launcher_code)
    code = _conclude(how, reason, argv)
    return MISTAKE if how == "mistake" else code


def _conclude(how: Outcome, reason: str, argv: list[str]) -> int:
    history = _history(_record())
    history.end(how, reason, _newest_step(argv))
    return _answer(after(history.attempts(), _max_restarts()))


def run_config(argv: list[str]) -> RunConfig | None:
    """The configuration of `albef-ds COMMAND ARGS`; None unless COMMAND is train."""
    command, *arguments = argv
    if command != "train":
        return None
    given = parser().parse_intermixed_args(arguments)
    return config_from(given, [f"output={given.output}"] if given.output else [])


def _newest_step(argv: list[str]) -> int:
    config = run_config(argv)
    return 0 if config is None else newest_step(Path(config.output))


def outcome_file(record: str) -> Path:
    """File in which the ranks record how they ended."""
    return Path(f"{record}.outcome.json")


def _history(record: str) -> History:
    return History(Path(f"{record}.attempts.jsonl"))


def _record() -> str:
    record = os.environ.get("ALBEF_RECORD")
    if not record:
        raise MachineError("ALBEF_RECORD is not set: submit one of the scripts in slurm/, which call this program")
    return record


def _max_restarts() -> int:
    return _number("ALBEF_MAX_RESTARTS", MAX_RESTARTS)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text} is not a whole number: give 0 or more")
    return int(text)


def _answer(decision: Decision) -> int:
    if decision.reason:
        print(f"slurm: {decision.action}: {decision.reason}", flush=True)
    return _CODES[decision.action]


def main(argv: list[str]) -> int:
    """Runs `begin`, `end CODE` or `bad-nodes NAMES` and returns its exit code (REQUEUE or STOP for `bad-nodes`)."""
    what, *rest = argv
    if what == "begin":
        return guarded(lambda: begin(rest))
    if what == "end":
        return guarded(lambda: end(rest[1:], int(rest[0])))
    return guarded(lambda: _conclude("bad node", rest[0], rest[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
