"""`albef-data`: from raw image-text corpora to clean, deduplicated, globally shuffled shards.

Turns arguments into calls of the stages, and a `UserError` into one line and exit code 2. Holds no logic of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from albef_ds.common import exit_codes
from albef_ds.common.errors import ConfigError, UserError
from albef_ds.data.shards.format import Manifest
from data_tools import pipeline
from data_tools.content import images
from data_tools.execution.executors import Parallel
from data_tools.files.storage import load_json
from data_tools.readers import READERS
from data_tools.readers.source import SourceSpec
from data_tools.stages.catalog import CHUNK_ROWS, build_catalog
from data_tools.stages.decontaminate import DecontaminateConfig, Known, decontaminate_stage
from data_tools.stages.dedup import DedupConfig, dedup_stage
from data_tools.stages.filter import PRESETS, FilterConfig, filter_stage
from data_tools.stages.plan import PlanConfig, plan_stage
from data_tools.stages.report import write_report
from data_tools.stages.scan import scan
from data_tools.stages.verify import rebuild_index, verify
from data_tools.stages.write_shards import ResizeConfig, shard_stage

_EXAMPLE = """\
a whole corpus with one command:
  albef-data build --work work --out corpus --samples-per-shard 10000 --preset cc12m \\
    --source coco=json:annotations/coco.json,images=/data/coco --source cc12m=img2dataset:/data/cc12m \\
    --against coco_test=coco_test.hashes.parquet --ids flickr_test=flickr_test.txt

Every command can be run again: it continues, and does nothing when all is done. Numbers, examples and the
reason of each dropped picture stand in WORK/report.html and WORK/plan/decisions.parquet.
"""


def _source_help() -> str:
    kinds = "\n".join(f"  {name:<14}{reader.doc}" for name, reader in READERS.items())
    options = "images=FOLDER, remap=OLD=>NEW, image_column=, caption_column=, keep=A+B, pattern=, second="
    return f"kinds of source (NAME=KIND:PATH[,OPTION=VALUE...]):\n{kinds}\noptions: {options}\n"


def _filter_help() -> str:
    presets = "\n".join(f"  {name:<14}{doc}" for name, (_, doc) in PRESETS.items())
    rules = "\n".join(f"  {f.name:<16}{f.metadata['doc']} (default {f.default!r})" for f in fields(FilterConfig))
    return f"presets:\n{presets}\nrules (--set NAME=VALUE changes one):\n{rules}\n"


def _sources(args: argparse.Namespace) -> list[SourceSpec]:
    specs = [SourceSpec.parse(text) for text in args.source]
    if args.sources:
        raw = load_json(Path(args.sources))
        if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
            raise ConfigError(f"{args.sources} is not a list of objects: write [{{'name': ..., 'kind': ..., 'path': ...}}]")
        specs += [SourceSpec.from_dict(entry) for entry in raw]
    return specs


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{option} {text} is not NAME=VALUE: write for example {option} name=value")
        pairs[name] = value
    return pairs


def _parallel(args: argparse.Namespace) -> Parallel:
    return Parallel(args.workers, args.executor, getattr(args, "task_index", 0), getattr(args, "num_tasks", 1))


def _filters(args: argparse.Namespace) -> FilterConfig:
    return PRESETS[args.preset][0].with_settings(_pairs(args.set, "--set"))


def _dedup(args: argparse.Namespace) -> DedupConfig:
    return DedupConfig(
        radius=args.radius,
        tolerance=args.tolerance,
        min_variance=args.min_variance,
        several_captions=args.several_captions,
        max_pictures_per_caption=args.max_pictures_per_caption,
        jaccard=args.jaccard,
        embeddings=args.embeddings,
        cosine=args.cosine,
    )


def _decontaminate(args: argparse.Namespace) -> DecontaminateConfig:
    return DecontaminateConfig(args.wide_radius, args.wide_tolerance)


def _plan(args: argparse.Namespace) -> PlanConfig:
    return PlanConfig(
        args.seed, args.samples_per_shard, args.shard_bytes, shuffle=not args.listed_order, even=not args.full_shards
    )


def _hash_files(args: argparse.Namespace) -> dict[str, Path]:
    return {name: Path(path) for name, path in _pairs(args.against, "--against").items()}


def _chain(args: argparse.Namespace) -> pipeline.ChainConfig:
    return pipeline.ChainConfig(
        plan=_plan(args),
        filters=_filters(args),
        dedup=_dedup(args),
        decontaminate=_decontaminate(args),
        hash_files=_hash_files(args),
        evaluation_sources=tuple(SourceSpec.parse(text) for text in args.evaluate),
        id_lists=_pairs(args.ids, "--ids"),
        resize=ResizeConfig(args.max_side, args.quality),
        max_pixels=args.max_pixels,
        fast=args.fast,
        chunk_rows=args.chunk_rows,
        restart=args.restart,
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _print_counts(counts: dict[str, dict[str, Any]]) -> None:
    for reason, count in counts.items():
        if count["pictures"] or count["captions"]:
            _say(f"  {count['pictures']:>12,} pictures {count['captions']:>12,} captions  {reason}")


def _print_manifest(manifest: Manifest | None, folder: Path) -> None:
    if manifest is None:
        _say("this share is done; other tasks still have theirs to do")
    else:
        size = sum(shard.num_bytes for shard in manifest.shards)
        _say(f"{folder}: {manifest.num_samples:,} samples in {len(manifest.shards):,} shards, {size / 1e9:,.2f} GB")


def _run_catalog(args: argparse.Namespace) -> int:
    stage = build_catalog(args.work, _sources(args), _parallel(args), chunk_rows=args.chunk_rows, restart=args.restart)
    if stage is None:
        _print_manifest(None, args.work)
        return 0
    for name, source in stage.summary["sources"].items():
        notes = "".join(f", {reason}: {count:,}" for reason, count in source["problems"].items())
        _say(f"{name}: {source['listed']:,} pictures listed{notes}")
    return 0


def _run_scan(args: argparse.Namespace) -> int:
    stage = scan(args.work, _parallel(args), max_pixels=args.max_pixels, fast=args.fast, restart=args.restart, retry=args.retry)
    if stage is None:
        _print_manifest(None, args.work)
        return 0
    for name, status in stage.summary["status"].items():
        _say(f"{name}: " + ", ".join(f"{count:,} {reason or 'sound'}" for reason, count in sorted(status.items())))
    return 0


def _run_filter(args: argparse.Namespace) -> int:
    _print_counts(filter_stage(args.work, _filters(args)).summary["counts"])
    return 0


def _run_dedup(args: argparse.Namespace) -> int:
    summary = dedup_stage(args.work, _dedup(args)).summary
    _print_counts(summary.pop("counts"))
    for name, value in summary.items():
        if isinstance(value, int):
            _say(f"  {value:>12,} {name.replace('_', ' ')}")
    return 0


def _run_hashes(args: argparse.Namespace) -> int:
    counts = pipeline.make_hashes(
        args.work, _sources(args), args.out, _parallel(args), max_pixels=args.max_pixels, restart=args.restart
    )
    _say(f"{args.out}: {counts['written']:,} pictures, {counts['left_out']:,} could not be read")
    return 0


def _run_decontaminate(args: argparse.Namespace) -> int:
    config = _decontaminate(args)
    known = [Known(name, path, config) for name, path in _hash_files(args).items()]
    stage = decontaminate_stage(args.work, known, _pairs(args.ids, "--ids"))
    for name, entry in stage.summary["sets"].items():
        ways = ", ".join(f"{count:,} {way}" for way, count in entry["ways"].items())
        _say(f"{name}: {entry['set_pictures_found']:,} of {entry['pictures']:,} found; training pictures dropped: {ways}")
    return 0


def _run_plan(args: argparse.Namespace) -> int:
    summary = plan_stage(args.work, _plan(args)).summary
    _say(f"{summary['num_samples']:,} samples in {summary['num_shards']:,} shards")
    return 0


def _run_shard(args: argparse.Namespace) -> int:
    resize = ResizeConfig(args.max_side, args.quality)
    _print_manifest(shard_stage(args.work, args.out, _parallel(args), resize, restart=args.restart), args.out)
    return 0


def _run_verify(args: argparse.Namespace) -> int:
    problems = verify(args.folder, _parallel(args), decode=args.decode)
    for problem in problems:
        _say(problem)
    _say(f"{args.folder}: {len(problems)} problems" if problems else f"{args.folder}: sound")
    return exit_codes.CHECK_FAILED if problems else 0


def _run_index(args: argparse.Namespace) -> int:
    _say(f"{args.folder}: offsets of {rebuild_index(args.folder):,} shards written")
    return 0


def _run_report(args: argparse.Namespace) -> int:
    path = args.out or args.work / pipeline.REPORT_NAME
    write_report(args.work, path)
    _say(f"{path} written")
    return 0


def _run_build(args: argparse.Namespace) -> int:
    run = pipeline.append if args.command == "append" else pipeline.build
    manifest = run(args.work, args.out, _sources(args), _chain(args), _parallel(args))
    _print_manifest(manifest, args.out)
    _say(f"report: {args.work / pipeline.REPORT_NAME}")
    return 0


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
    parser.add_argument(
        "--max-pixels", type=int, default=images.MAX_PIXELS, help="above it a picture is broken (default %(default)s)"
    )
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


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="albef-data", description=__doc__, epilog=_EXAMPLE, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], doc: str, epilog: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=doc, description=doc, epilog=epilog, formatter_class=raw)
        added.set_defaults(run=run)
        return added

    both = f"{_source_help()}\n{_filter_help()}"
    for name, doc in (
        ("build", "run the whole chain: catalog, scan, filter, dedup, decontaminate, plan, report, shard, verify"),
        ("append", "add sources to an existing corpus, without what it already holds"),
    ):
        chain = command(name, _run_build, doc, both)
        for add in (_add_work, _add_sources, _add_scan, _add_filter, _add_dedup, _add_decontaminate, _add_plan, _add_resize):
            add(chain)
        _add_parallel(chain, array=False)
        _add_restart(chain)
        chain.add_argument("--evaluate", action="append", default=[], metavar="NAME=KIND:PATH", help="evaluation set as a source")

    catalog = command("catalog", _run_catalog, "list every picture of every source as one numbered row", _source_help())
    scanned = command("scan", _run_scan, "one pass over each byte: hashes, full decode, caption statistics")
    scanned.add_argument("--retry", action="store_true", help="scan chunks again that had missing or unreadable files")
    filtered = command("filter", _run_filter, "drop pictures and captions by rules, each with its reason", _filter_help())
    deduped = command("dedup", _run_dedup, "drop duplicates by bytes, pixels and look; duplicate captions")
    hashes = command(
        "hashes", _run_hashes, "write the hash file of an evaluation set, to share without its pictures", _source_help()
    )
    cleaned = command("decontaminate", _run_decontaminate, "drop pictures that are in an evaluation set")
    plan = command("plan", _run_plan, "fix the order of samples and the size of shards")
    shard = command("shard", _run_shard, "write the planned shards")
    for stage in (catalog, scanned, filtered, deduped, hashes, cleaned, plan, shard):
        _add_work(stage)
    for stage in (catalog, hashes):
        _add_sources(stage)
    for stage in (catalog, scanned, shard):
        _add_parallel(stage, array=True)
        _add_restart(stage)
    _add_parallel(hashes, array=False)
    _add_restart(hashes)
    hashes.add_argument("--max-pixels", type=int, default=images.MAX_PIXELS, help="above it a picture is broken")
    hashes.add_argument("--out", type=Path, required=True, help="the hash file, ending in .parquet")
    _add_scan(scanned)
    _add_filter(filtered)
    _add_dedup(deduped)
    _add_decontaminate(cleaned)
    _add_plan(plan)
    _add_resize(shard)

    checked = command("verify", _run_verify, "check every byte of a corpus against its manifest (exit code 1: problems)")
    checked.add_argument("folder", type=Path)
    checked.add_argument("--decode", action="store_true", help="also decode every picture")
    _add_parallel(checked, array=False)
    command("index", _run_index, "write the member offsets of a corpus again").add_argument("folder", type=Path)
    report = command("report", _run_report, "write the HTML report of a working folder whose plan is finished")
    _add_work(report)
    report.add_argument("--out", type=Path, help="default: WORK/report.html")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `albef-data`; return the exit code: 0, 1 (verify found problems) or 2 (the user's mistake, one line)."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except UserError as error:
        print(f"albef-data: {error}", file=sys.stderr)
        return exit_codes.MISTAKE
    except KeyboardInterrupt:
        print("albef-data: stopped; run again to continue", file=sys.stderr)
        return exit_codes.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
