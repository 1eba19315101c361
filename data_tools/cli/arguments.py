"""Arguments of `albef-data` and descriptions of its stages, for programs that run them one by one. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from albef_ds.common.urls import is_url
from data_tools.config import CHUNK_ROWS, MAX_PIXELS, PRESETS, DecontaminateConfig, DedupConfig, FilterConfig, ResizeConfig

_DESCRIPTION = "`albef-data`: from raw image-text corpora to clean, deduplicated, globally shuffled shards."
_EXAMPLE = """\
a whole corpus with one command:
  albef-data build --work work --out corpus --samples-per-shard 10000 --preset cc12m \\
    --source coco=json:annotations/coco.json,images=/data/coco --source cc12m=img2dataset:/data/cc12m \\
    --against coco_test=coco_test.hashes.parquet --ids flickr_test=flickr_test.txt

Every command can be run again: it continues, and does nothing when all is done. WORK/report.html and
WORK/plan/decisions.parquet hold numbers, examples and the reason of each dropped image.
"""

Option = tuple[tuple[str, ...], dict[str, Any]]
"""Arguments of `add_argument`."""


def place_of(text: str) -> Path | str:
    """Returns the place of a corpus that an option names: a local folder, or a URL."""
    return text if is_url(text) else Path(text)


def _option(*names: str, **settings: Any) -> Option:
    return names, settings


_WORK = [_option("--work", type=Path, required=True, help="working folder; stages leave their results here")]
_FOLDER = [_option("folder", type=Path)]
_PLACE = [_option("folder", type=place_of, help="the corpus: a folder or a URL such as s3://bucket/corpus")]
_SOURCES = [
    _option("--source", action="append", default=[], metavar="NAME=KIND:PATH,...", help="a source; may be repeated"),
    _option("--sources", metavar="FILE", help="JSON list of sources with the same fields"),
    _option("--chunk-rows", type=int, default=CHUNK_ROWS, help="images per task (default %(default)s)"),
]
_PARALLEL = [
    _option("--workers", type=int, default=0, help="processes; 0: one per core (default), 1: none"),
    _option("--executor", default="", metavar="dask://HOST:PORT", help="a running Dask scheduler instead"),
]
_ARRAY = [
    *_PARALLEL,
    _option("--task-index", type=int, default=0, help="this array task's number, from 0"),
    _option("--num-tasks", type=int, default=1, help="how many array tasks share the work"),
]
_PARTITIONS = [
    _option("--partitions", type=int, default=0, help="parts of the keys, for less memory; 0: one per 8 million rows (default)")
]
_SHARED = [*_ARRAY, *_PARTITIONS]
_RESTART = [_option("--restart", action="store_true", help="make the stage again although its settings changed")]
_RETRY = [_option("--retry", action="store_true", help="scan chunks again that had missing or unreadable files")]
_SCAN = [
    _option("--max-pixels", type=int, default=MAX_PIXELS, help="above it an image is broken (default %(default)s)"),
    _option("--fast", action="store_true", help="decode JPEGs at reduced scale; no pixel hash for them"),
]
_FILTER = [
    _option("--preset", choices=list(PRESETS), default="none", help="set of rules (default %(default)s)"),
    _option("--set", action="append", default=[], metavar="RULE=VALUE", help="change one rule; may be repeated"),
]
_DEDUP = [
    _option("--radius", type=int, default=DedupConfig.radius, help="bits between near-duplicates (default %(default)s; -1: off)"),
    _option("--tolerance", type=int, default=DedupConfig.tolerance, help="colour difference between them (default %(default)s)"),
    _option("--min-variance", type=float, default=DedupConfig.min_variance, help="flatter images: bytes and pixels only"),
    _option("--several-captions", default=DedupConfig.several_captions, help="all, best or drop (default %(default)s)"),
    _option("--max-pictures-per-caption", type=int, default=0, help="0: no limit (default)"),
    _option("--jaccard", type=float, default=DedupConfig.jaccard, help="of near captions (default %(default)s; 0: off)"),
    _option("--embeddings", default="", metavar="NAME", help="features compared too: of `embed`, or a .npy of all catalog rows"),
    _option("--cosine", type=float, default=DedupConfig.cosine, help="of alike features (default %(default)s)"),
]
_DECONTAMINATE = [
    _option("--against", action="append", default=[], metavar="NAME=FILE", help="hash file of an evaluation set"),
    _option("--ids", action="append", default=[], metavar="NAME=FILE", help="id list of an evaluation set"),
    _option("--wide-radius", type=int, default=DecontaminateConfig.radius, help="bits (default %(default)s; -1: off)"),
    _option("--wide-tolerance", type=int, default=DecontaminateConfig.tolerance, help="colours (default %(default)s)"),
]
_PLAN = [
    _option("--seed", type=int, default=0, help="of the order of samples (default %(default)s)"),
    _option("--full-shards", action="store_true", help="fill each shard, the last holds what is left; else even ones"),
    _option("--listed-order", action="store_true", help="leave samples as listed (galleries; not for training)"),
    _option("--samples-per-shard", type=int, default=0, help="even shards of at most this many samples"),
    _option("--shard-bytes", type=int, default=0, help="or even shards of about this many bytes"),
]
_SHARD = [
    _option("--out", type=place_of, required=True, help="folder of the corpus, or a URL such as s3://bucket/corpus"),
    _option("--max-side", type=int, default=0, help="scale larger images down; 0: bytes untouched (default)"),
    _option("--quality", type=int, default=ResizeConfig.quality, help="JPEG quality of those (default %(default)s)"),
]
_BUILD = [
    *(*_WORK, *_SOURCES, *_SCAN, *_FILTER, *_DEDUP, *_DECONTAMINATE, *_PLAN, *_SHARD, *_PARALLEL, *_PARTITIONS, *_RESTART),
    _option("--evaluate", action="append", default=[], metavar="NAME=KIND:PATH", help="evaluation set as a source"),
]
_HASHES = [
    *(*_WORK, *_SOURCES, *_PARALLEL, *_RESTART),
    _option("--max-pixels", type=int, default=MAX_PIXELS, help="above it an image is broken"),
    _option("--out", type=Path, required=True, help="the hash file, ending in .parquet"),
]
_EMBED = [
    *(*_FOLDER, *_ARRAY, *_RESTART),
    _option("--model", required=True, help="checkpoint, run, model folder or weights file"),
    _option("--name", default="embed", help="folder beside the manifest (default %(default)s)"),
    _option("--weights", choices=("student", "momentum"), default="student", help="default %(default)s"),
    _option("--device", default="auto", help="cpu, cuda, ...; auto (default): the GPU of this rank"),
    _option("--dtype", default="", help="precision, such as bf16; default fp32"),
    _option("--batch-size", type=int, default=64, help="images per forward pass (default %(default)s)"),
    _option("--override", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="for what a released file lacks"),
]
_GROUP = [
    *(*_FOLDER, *_RESTART),
    _option("--features", default="embed", metavar="NAME", help="which features (default %(default)s)"),
    _option("--name", default="groups", help="of the order, for data.group_order (default %(default)s)"),
    _option("--by", choices=("both", "images", "texts"), default="both", help="what has to be alike (default %(default)s)"),
    _option("--seed", type=int, default=0, help="of the search (default %(default)s)"),
]
_DECODE = [_option("--decode", action="store_true", help="also decode every image")]
_REPORT = [*_WORK, _option("--out", type=Path, help="default: WORK/report.html")]

_CHAIN = ("catalog", "scan", "filter", "dedup", "decontaminate", "plan", "report", "shard", "verify")
"""The stages of `build`, in the order in which they run."""
_ARRAYS = ("scan", "shard")
"""Stages with enough work for an array of tasks."""


class _Parser(argparse.ArgumentParser):
    """A command's parser, which creates its epilog when help is shown."""

    epilogs: tuple[Callable[[], str], ...] = ()

    def format_help(self) -> str:
        self.epilog = "\n".join(epilog() for epilog in self.epilogs)
        return super().format_help()


def stages() -> list[dict[str, Any]]:
    """The stages of `build`, in order.

    Returns:
        For each its `name`; `array`: whether an array of tasks shares it (`--task-index`, `--num-tasks`); its `options`, which
        have values, and `flags`, which have none; `folders`: option of `build` -> the stage's option, "" if positional.
    """
    commands = parsers()[1]
    return [{"name": name, "array": name in _ARRAYS, **_describe(commands[name])} for name in _CHAIN]


def _describe(command: argparse.ArgumentParser) -> dict[str, Any]:
    found: dict[str, Any] = {"options": [], "flags": [], "folders": {}}
    for action in command._actions:  # argparse has no public list of them
        name = action.option_strings[-1] if action.option_strings else ""
        if action.type in (Path, place_of):
            if action.required:  # else it is not a folder of `build`, such as the report's file
                found["folders"][name or "--out"] = name
        elif name != "--help" and not any(name in names for names, _ in _ARRAY):  # those only affect how a stage runs
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


def parsers() -> tuple[argparse.ArgumentParser, dict[str, _Parser]]:
    """The parser of `albef-data`, and the parsers of its commands by name."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="albef-data", description=_DESCRIPTION, epilog=_EXAMPLE, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, doc: str, options: list[Option], *epilogs: Callable[[], str]) -> None:
        command = commands.add_parser(name, help=doc, description=doc, formatter_class=raw)
        command.epilogs = epilogs
        for names, settings in options:
            command.add_argument(*names, **settings)

    add("build", f"run the whole chain: {', '.join(_CHAIN)}", _BUILD, _source_help, _filter_help)
    add("append", "add sources to an existing corpus, without what it already holds", _BUILD, _source_help, _filter_help)
    sources = [*_WORK, *_SOURCES, *_ARRAY, *_RESTART]
    add("catalog", "list every image of every source as one numbered row", sources, _source_help)
    scan = [*_RETRY, *_WORK, *_ARRAY, *_RESTART, *_SCAN]
    add("scan", "one pass over each byte: hashes, full decode, caption statistics", scan)
    add("filter", "drop images and captions by rules, each with its reason", [*_WORK, *_FILTER], _filter_help)
    add("dedup", "drop duplicates by bytes, pixels and look; duplicate captions", [*_WORK, *_DEDUP, *_SHARED])
    add("hashes", "write the hash file of an evaluation set, to share without its images", _HASHES, _source_help)
    add("decontaminate", "drop images that are in an evaluation set", [*_WORK, *_DECONTAMINATE, *_SHARED])
    add("plan", "fix the order of samples and the size of shards", [*_WORK, *_PLAN, *_SHARED])
    add("shard", "write the planned shards", [*_WORK, *_ARRAY, *_RESTART, *_SHARD])
    verify = [*_PLACE, *_DECODE, *_PARALLEL]
    add("verify", "check every byte of a corpus against its manifest (exit code 1: problems)", verify)
    add("embed", "features and scores of a corpus's pairs by a model; ranks of a launcher share the work", _EMBED)
    add("group", "an order of similar pairs beside a manifest, from which training forms its groups", _GROUP)
    add("index", "write the member offsets of a corpus again", _PLACE)
    add("report", "write the HTML report of a working folder whose plan is finished", _REPORT)
    add("stages", "print the stages of `build` as JSON, for programs that run them one by one", [])
    return parser, commands.choices
