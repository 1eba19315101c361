"""Arguments of `albef-data`, and what its stages take, for programs that run them one by one. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_tools.config import (
    CHUNK_ROWS,
    MAX_PIXELS,
    PRESETS,
    DecontaminateConfig,
    DedupConfig,
    FilterConfig,
    ResizeConfig,
)

_DESCRIPTION = "`albef-data`: from raw image-text corpora to clean, deduplicated, globally shuffled shards."
_EXAMPLE = """\
a whole corpus with one command:
  albef-data build --work work --out corpus --samples-per-shard 10000 --preset cc12m \\
    --source coco=json:annotations/coco.json,images=/data/coco --source cc12m=img2dataset:/data/cc12m \\
    --against coco_test=coco_test.hashes.parquet --ids flickr_test=flickr_test.txt

Every command can be run again: it continues, and does nothing when all is done. Numbers, examples and the
reason of each dropped picture stand in WORK/report.html and WORK/plan/decisions.parquet.
"""


_CHAIN = {
    "catalog": False,
    "scan": True,
    "filter": False,
    "dedup": False,
    "decontaminate": False,
    "plan": False,
    "report": False,
    "shard": True,
    "verify": False,
}
"""The stages of `build`, in the order in which each needs the one before, and whether an array of tasks shares the work."""
_PARALLEL = ("--workers", "--executor", "--task-index", "--num-tasks")
"""Options that say how a stage runs, not what it does."""


class _Parser(argparse.ArgumentParser):
    """A command's parser, whose epilog is made when it is shown."""

    epilogs: tuple[Callable[[], str], ...] = ()

    def format_help(self) -> str:
        self.epilog = "\n".join(epilog() for epilog in self.epilogs)
        return super().format_help()


def stages() -> list[dict[str, Any]]:
    """The stages of `build`, in order.

    Returns:
        Of each its `name`; whether an `array` of tasks shares it (`--task-index`, `--num-tasks`); its `options`, which have
        values, and `flags`, which have none; its `folders`: option of `build` -> the stage's option for it, "" if positional.
    """
    commands = parsers()[1]
    return [{"name": name, "array": array, **_describe(commands[name])} for name, array in _CHAIN.items()]


def _describe(command: argparse.ArgumentParser) -> dict[str, Any]:
    found: dict[str, Any] = {"options": [], "flags": [], "folders": {}}
    for action in command._actions:  # argparse has no public list of them
        name = action.option_strings[-1] if action.option_strings else ""
        if action.type is Path:
            if action.required:  # else it is no folder of `build`, as the report's own file
                found["folders"][name or "--out"] = name
        elif name not in ("--help", *_PARALLEL):
            found["flags" if action.nargs == 0 else "options"].append(name)
    return found


def _source_help() -> str:
    from data_tools.readers import READERS  # here: start-up, the readers import pyarrow

    kinds = "\n".join(f"  {name:<14}{reader.doc}" for name, reader in READERS.items())
    options = "images=FOLDER, remap=OLD=>NEW, image_column=, caption_column=, keep=A+B, pattern=, second="
    return f"kinds of source (NAME=KIND:PATH[,OPTION=VALUE...]):\n{kinds}\noptions: {options}\n"


def _filter_help() -> str:
    presets = "\n".join(f"  {name:<14}{doc}" for name, (_, doc) in PRESETS.items())
    rules = "\n".join(f"  {f.name:<16}{f.metadata['doc']} (default {f.default!r})" for f in fields(FilterConfig))
    return f"presets:\n{presets}\nrules (--set NAME=VALUE changes one):\n{rules}\n"


def _add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, required=True, help="working folder; stages leave their results here")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", action="append", default=[], metavar="NAME=KIND:PATH,...", help="a source; may be repeated")
    parser.add_argument("--sources", metavar="FILE", help="JSON list of sources with the same fields")
    parser.add_argument("--chunk-rows", type=int, default=CHUNK_ROWS, help="pictures per task (default %(default)s)")


def _add_parallel(parser: argparse.ArgumentParser, *, array: bool) -> None:
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core (default), 1: none")
    parser.add_argument("--executor", default="", metavar="dask://HOST:PORT", help="a running Dask scheduler instead")
    if array:
        parser.add_argument("--task-index", type=int, default=0, help="this array task's number, from 0")
        parser.add_argument("--num-tasks", type=int, default=1, help="how many array tasks share the work")


def _add_restart(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--restart", action="store_true", help="make the stage again although its settings changed")


def _add_scan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="above it a picture is broken (default %(default)s)")
    parser.add_argument("--fast", action="store_true", help="decode JPEGs at reduced scale; no pixel hash for them")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=list(PRESETS), default="none", help="set of rules (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="RULE=VALUE", help="change one rule; may be repeated")


def _add_dedup(parser: argparse.ArgumentParser) -> None:
    config = DedupConfig()
    parser.add_argument(
        "--radius", type=int, default=config.radius, help="bits between near-duplicates (default %(default)s; -1: off)"
    )
    parser.add_argument(
        "--tolerance", type=int, default=config.tolerance, help="colour difference between them (default %(default)s)"
    )
    parser.add_argument("--min-variance", type=float, default=config.min_variance, help="flatter pictures: bytes and pixels only")
    parser.add_argument("--several-captions", default=config.several_captions, help="all, best or drop (default %(default)s)")
    parser.add_argument("--max-pictures-per-caption", type=int, default=0, help="0: no limit (default)")
    parser.add_argument(
        "--jaccard", type=float, default=config.jaccard, help="of near-duplicate captions (default %(default)s; 0: off)"
    )
    parser.add_argument("--embeddings", default="", metavar="FILE", help="features of all catalog rows (.npy), compared too")
    parser.add_argument("--cosine", type=float, default=config.cosine, help="of alike features (default %(default)s)")


def _add_decontaminate(parser: argparse.ArgumentParser) -> None:
    config = DecontaminateConfig()
    parser.add_argument("--against", action="append", default=[], metavar="NAME=FILE", help="hash file of an evaluation set")
    parser.add_argument("--ids", action="append", default=[], metavar="NAME=FILE", help="id list of an evaluation set")
    parser.add_argument("--wide-radius", type=int, default=config.radius, help="bits (default %(default)s; -1: off)")
    parser.add_argument("--wide-tolerance", type=int, default=config.tolerance, help="colours (default %(default)s)")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of the order of samples (default %(default)s)")
    parser.add_argument("--full-shards", action="store_true", help="fill each shard, the last holds what is left; else even ones")
    parser.add_argument("--listed-order", action="store_true", help="leave samples as listed (galleries; not for training)")
    parser.add_argument("--samples-per-shard", type=int, default=0, help="even shards of at most this many samples")
    parser.add_argument("--shard-bytes", type=int, default=0, help="or even shards of about this many bytes")


def _add_resize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--max-side", type=int, default=0, help="scale larger pictures down; 0: bytes untouched (default)")
    parser.add_argument("--quality", type=int, default=ResizeConfig().quality, help="JPEG quality of those (default %(default)s)")


def parsers() -> tuple[argparse.ArgumentParser, dict[str, _Parser]]:
    """The parser of `albef-data`, and those of its commands by name."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="albef-data", description=_DESCRIPTION, epilog=_EXAMPLE, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, doc: str, *epilogs: Callable[[], str]) -> _Parser:
        added: _Parser = commands.add_parser(name, help=doc, description=doc, formatter_class=raw)
        added.epilogs = epilogs
        return added

    for name, doc in (
        ("build", "run the whole chain: catalog, scan, filter, dedup, decontaminate, plan, report, shard, verify"),
        ("append", "add sources to an existing corpus, without what it already holds"),
    ):
        chain = command(name, doc, _source_help, _filter_help)
        for add in (_add_work, _add_sources, _add_scan, _add_filter, _add_dedup, _add_decontaminate, _add_plan, _add_resize):
            add(chain)
        _add_parallel(chain, array=False)
        _add_restart(chain)
        chain.add_argument("--evaluate", action="append", default=[], metavar="NAME=KIND:PATH", help="evaluation set as a source")

    catalog = command("catalog", "list every picture of every source as one numbered row", _source_help)
    scanned = command("scan", "one pass over each byte: hashes, full decode, caption statistics")
    scanned.add_argument("--retry", action="store_true", help="scan chunks again that had missing or unreadable files")
    filtered = command("filter", "drop pictures and captions by rules, each with its reason", _filter_help)
    deduped = command("dedup", "drop duplicates by bytes, pixels and look; duplicate captions")
    hashes = command("hashes", "write the hash file of an evaluation set, to share without its pictures", _source_help)
    cleaned = command("decontaminate", "drop pictures that are in an evaluation set")
    plan = command("plan", "fix the order of samples and the size of shards")
    shard = command("shard", "write the planned shards")
    for stage in (catalog, scanned, filtered, deduped, hashes, cleaned, plan, shard):
        _add_work(stage)
    for stage in (catalog, hashes):
        _add_sources(stage)
    for stage in (catalog, scanned, shard):
        _add_parallel(stage, array=True)
        _add_restart(stage)
    _add_parallel(hashes, array=False)
    _add_restart(hashes)
    hashes.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="above it a picture is broken")
    hashes.add_argument("--out", type=Path, required=True, help="the hash file, ending in .parquet")
    _add_scan(scanned)
    _add_filter(filtered)
    _add_dedup(deduped)
    _add_decontaminate(cleaned)
    _add_plan(plan)
    _add_resize(shard)

    checked = command("verify", "check every byte of a corpus against its manifest (exit code 1: problems)")
    checked.add_argument("folder", type=Path)
    checked.add_argument("--decode", action="store_true", help="also decode every picture")
    _add_parallel(checked, array=False)
    command("index", "write the member offsets of a corpus again").add_argument("folder", type=Path)
    report = command("report", "write the HTML report of a working folder whose plan is finished")
    _add_work(report)
    report.add_argument("--out", type=Path, help="default: WORK/report.html")
    command("stages", "print the stages of `build` as JSON, for programs that run them one by one")
    return parser, commands.choices
