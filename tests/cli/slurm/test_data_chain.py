"""Options of `albef-data build` reach the stage that knows them."""

from __future__ import annotations

import argparse

import pytest

from albef_ds.cli.slurm.data_chain import STAGES, chain
from albef_ds.common.errors import UserError
from data_tools.cli import _parser

PLACES = {"--help", "--work", "--workers", "--executor", "--task-index", "--num-tasks"}


def options_of(stage: str) -> set[str]:
    commands = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {option for action in commands.choices[stage]._actions for option in action.option_strings if option.startswith("--")}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_is_given_what_its_parser_takes(stage: object) -> None:
    found = next(entry for entry in STAGES if entry is stage)
    ours = {*found.options, *found.flags}
    # The report's --out is another file than the corpus folder.
    assert options_of(found.name) - PLACES - ({"--out"} if found.name == "report" else set()) == ours
    assert ("--num-tasks" in options_of(found.name)) >= found.array


def test_the_chain_in_order_with_shares() -> None:
    jobs = chain(["--work", "w", "--out=c", "--source", "a=folder:x", "--source", "b=folder:y", "--fast", "--seed", "3"], 4)
    arguments = {job.stage.name: " ".join(job.arguments) for job in jobs}
    assert arguments["catalog"] == "catalog --work w --source a=folder:x --source b=folder:y"
    assert arguments["scan"] == "scan --work w --fast --num-tasks 4"
    assert arguments["plan"] == "plan --work w --seed 3"
    assert arguments["shard"] == "shard --work w --out c --num-tasks 4"
    assert arguments["verify"] == "verify c"
    assert [job.num_tasks for job in jobs] == [None, 4, None, None, None, None, None, 4, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--work", "w"], "--out is not given"),
        (["--work", "w", "--out", "c", "--colour", "red"], "--colour is no option"),
        (["--work", "w", "--out"], "--out has no value"),
        (["--work", "w", "--out", "c", "--evaluate", "a=folder:x"], "albef-data hashes"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        chain(arguments, 4)
