"""The stages of `albef-data build` as Slurm jobs: arrays for those that share work, one node for the reductions between them.

Which option belongs to which stage is written down here; a test compares it with `albef-data`'s own parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from albef_ds.common.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """A subcommand of `albef-data`: its options with and without a value, and whether its tasks may share it."""

    name: str
    array: bool = False
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    work: bool = True
    """Whether it takes --work; `verify` takes the corpus folder."""


_DEDUP = (
    *("--radius", "--tolerance", "--min-variance", "--several-captions", "--max-pictures-per-caption"),
    *("--jaccard", "--embeddings", "--cosine"),
)

STAGES = (
    Stage("catalog", options=("--source", "--sources", "--chunk-rows"), flags=("--restart",)),
    Stage("scan", array=True, options=("--max-pixels",), flags=("--fast", "--retry", "--restart")),
    Stage("filter", options=("--preset", "--set")),
    Stage("dedup", options=_DEDUP),
    Stage("decontaminate", options=("--against", "--ids", "--wide-radius", "--wide-tolerance")),
    Stage("plan", options=("--seed", "--samples-per-shard", "--shard-bytes"), flags=("--listed-order", "--full-shards")),
    Stage("report"),
    Stage("shard", array=True, options=("--out", "--max-side", "--quality"), flags=("--restart",)),
    Stage("verify", flags=("--decode",), work=False),
)
"""In the order in which each needs the one before."""


@dataclass(frozen=True)
class StageJob:
    """One job of the chain: the arguments of `albef-data`, and the number of array tasks or None."""

    stage: Stage
    arguments: list[str] = field(default_factory=list)
    num_tasks: int | None = None


def chain(arguments: Sequence[str], num_tasks: int) -> list[StageJob]:
    """The jobs that do what `albef-data build ARGUMENTS` does, `num_tasks` tasks per array.

    Raises:
        ConfigError: an option that no stage knows, a missing value, or neither --work nor --out.
    """
    given = _pairs(arguments)
    values = dict(given)
    for name in ("--work", "--out"):
        if not values.get(name):
            raise ConfigError(f"{name} is not given: name the folder, as for `albef-data build`")
    jobs = []
    for stage in STAGES:
        own = [(option, value) for option, value in given if option in (*stage.options, *stage.flags)]
        words = [word for option, value in own for word in (option, value) if word is not None]
        place = ["--work", str(values["--work"])] if stage.work else [str(values["--out"])]
        tasks = num_tasks if stage.array else None
        share = ["--num-tasks", str(num_tasks)] if stage.array else []
        jobs.append(StageJob(stage, [stage.name, *place, *words, *share], tasks))
    return jobs


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Options with their values, None for flags."""
    with_value = {"--work", *(option for stage in STAGES for option in stage.options)}
    flags = {flag for stage in STAGES for flag in stage.flags}
    found: list[tuple[str, str | None]] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in flags and not equals:
            found.append((option, None))
        elif option in with_value:
            text = value if equals else next(words, None)
            if text is None:
                raise ConfigError(f"{option} has no value: give one")
            found.append((option, text))
        elif option == "--evaluate":
            raise ConfigError(
                "--evaluate cannot be shared out: write the set's hash file with `albef-data hashes`, then give --against"
            )
        else:
            raise ConfigError(
                f"{word} is no option of a stage: `albef-data build --help` lists them (--workers follows from the job)"
            )
    return found
