"""Options of `albef-data build` are passed to the stages that take them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from albef_ds.cli.slurm.data_chain import chain, read_stages
from albef_ds.common.errors import ConfigError, MachineError
from data_tools.cli.arguments import parsers, stages

DEDUP = {
    *("--radius", "--tolerance", "--min-variance", "--several-captions", "--max-pictures-per-caption"),
    *("--jaccard", "--embeddings", "--cosine", "--partitions"),
}
WORK, CORPUS = {"--work": "--work"}, {"--out": "--out"}
EXPECTED = [
    ("catalog", False, {"--source", "--sources", "--chunk-rows"}, {"--restart"}, WORK),
    ("scan", True, {"--max-pixels"}, {"--fast", "--retry", "--restart"}, WORK),
    ("filter", False, {"--preset", "--set"}, set(), WORK),
    ("dedup", False, DEDUP, set(), WORK),
    ("decontaminate", False, {"--against", "--ids", "--wide-radius", "--wide-tolerance", "--partitions"}, set(), WORK),
    (
        "plan",
        False,
        {"--seed", "--samples-per-shard", "--shard-bytes", "--partitions"},
        {"--listed-order", "--full-shards"},
        WORK,
    ),
    ("report", False, set(), set(), WORK),  # its --out is another file than the corpus folder
    ("shard", True, {"--max-side", "--quality"}, {"--restart"}, {**WORK, **CORPUS}),
    ("verify", False, set(), {"--decode"}, {"--out": ""}),
]


def test_the_stages_are_those_of_the_command_line() -> None:
    found = read_stages()
    assert [stage.__dict__ for stage in found] == stages()
    assert [(s.name, s.array, set(s.options), set(s.flags), s.folders) for s in found] == EXPECTED
    commands = parsers()[1]
    assert all("--num-tasks" in commands[stage.name].format_usage() for stage in found if stage.array)
    of_build = {option for action in commands["build"]._actions for option in action.option_strings}
    given = {option for stage in found for option in (*stage.options, *stage.flags, *stage.folders)}
    assert of_build - given == {"-h", "--help", "--workers", "--executor", "--evaluate"}
    assert given - of_build == {"--retry", "--decode"}, "of one stage only"


def test_a_machine_without_the_data_tools_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no data_tools' >&2\nexit 1\n")
    os.chmod(program, 0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(MachineError, match=r"ModuleNotFoundError: no data_tools.*pip install albef-ds\[data\]"):
        chain(["--work", "w", "--out", "c"], 4)


def test_the_chain_in_order_with_shares() -> None:
    jobs = chain(["--work", "w", "--out=c", "--source", "a=folder:x", "--source", "b=folder:y", "--fast", "--seed", "3"], 4)
    arguments = {job.stage.name: " ".join(job.arguments) for job in jobs}
    assert arguments["catalog"] == "catalog --work w --source a=folder:x --source b=folder:y"
    assert arguments["scan"] == "scan --work w --fast --num-tasks 4"
    assert arguments["plan"] == "plan --work w --seed 3"
    assert arguments["shard"] == "shard --work w --out c --num-tasks 4"
    assert arguments["verify"] == "verify c"
    assert [job.num_tasks for job in jobs] == [None, 4, None, None, None, None, None, 4, None]


def test_reductions_with_partitions_are_arrays_too() -> None:
    jobs = chain(["--work", "w", "--out=c", "--source", "a=folder:x", "--partitions", "3"], 8)
    tasks = {job.stage.name: job.num_tasks for job in jobs if job.num_tasks}
    assert tasks == {"scan": 8, "dedup": 3, "decontaminate": 3, "plan": 3, "shard": 8}
    assert next(job for job in jobs if job.stage.name == "dedup").arguments[-4:] == ["--partitions", "3", "--num-tasks", "3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--work", "w"], "--out is missing"),
        (["--work", "w", "--out", "c", "--colour", "red"], "--colour is not an option"),
        (["--work", "w", "--out"], "--out has no value"),
        (["--work", "w", "--out", "c", "--evaluate", "a=folder:x"], "albef-data hashes"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chain(arguments, 4)
