"""The commands of `albef-data`: they turn arguments into settings, run the stages and print the results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from albef_ds.common import exit_codes
from albef_ds.common.errors import ConfigError
from albef_ds.data.shards.format import Manifest
from data_tools import pipeline
from data_tools.config import PRESETS, DecontaminateConfig, DedupConfig, FilterConfig, PlanConfig, ResizeConfig
from data_tools.execution.executors import Parallel
from data_tools.features.embed import embed, share_of
from data_tools.features.group import write_groups
from data_tools.features.model import ModelChoice
from data_tools.files.storage import load_json
from data_tools.readers.source import SourceSpec
from data_tools.stages.catalog import Catalog, build_catalog
from data_tools.stages.decontaminate import Known, decontaminate_stage
from data_tools.stages.dedup import dedup_stage
from data_tools.stages.filter import filter_stage
from data_tools.stages.plan import plan_stage
from data_tools.stages.report import write_report
from data_tools.stages.scan import scan
from data_tools.stages.verify import rebuild_index, verify
from data_tools.stages.write_shards import shard_stage


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
    return DedupConfig(**{setting.name: getattr(args, setting.name) for setting in fields(DedupConfig)})


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
        partitions=args.partitions,
        restart=args.restart,
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _print_counts(counts: dict[str, dict[str, Any]]) -> None:
    for reason, count in counts.items():
        if count["pictures"] or count["captions"]:
            _say(f"  {count['pictures']:>12,} images {count['captions']:>12,} captions  {reason}")


def _print_manifest(manifest: Manifest | None, folder: Path | str) -> None:
    if manifest is None:
        _say("this share is done; other tasks are not finished")
    else:
        size = sum(shard.num_bytes for shard in manifest.shards)
        _say(f"{folder}: {manifest.num_samples:,} samples in {len(manifest.shards):,} shards, {size / 1e9:,.2f} GB")


def _run_catalog(args: argparse.Namespace) -> int:
    stage = build_catalog(args.work, _sources(args), _parallel(args), chunk_rows=args.chunk_rows, restart=args.restart)
    if stage is None:
        _print_manifest(None, args.work)
        return 0
    _print_sources(stage.summary["sources"])
    return 0


def _print_sources(sources: dict[str, Any]) -> None:
    for name, source in sources.items():
        notes = "".join(f", {reason}: {count:,}" for reason, count in source["problems"].items())
        _say(f"{name}: {source['listed']:,} images listed{notes}")


def _run_scan(args: argparse.Namespace) -> int:
    stage = scan(args.work, _parallel(args), max_pixels=args.max_pixels, fast=args.fast, restart=args.restart, retry=args.retry)
    if stage is None:
        _print_manifest(None, args.work)
        return 0
    for name, status in stage.summary["status"].items():
        _say(f"{name}: " + ", ".join(f"{count:,} {reason or 'sound'}" for reason, count in sorted(status.items())))
    return 0


def _run_filter(args: argparse.Namespace) -> int:
    summary = filter_stage(args.work, _filters(args)).summary
    _print_counts(summary["counts"])
    if unscored := summary.get("captions_without_a_score"):
        _say(f"  {unscored:>12,} captions without a score of the model")
    return 0


def _run_dedup(args: argparse.Namespace) -> int:
    summary = dedup_stage(args.work, _dedup(args), _parallel(args), args.partitions).summary
    _print_counts(summary.pop("counts"))
    for name, value in summary.items():
        if isinstance(value, int):
            _say(f"  {value:>12,} {name.replace('_', ' ')}")
    return 0


def _run_hashes(args: argparse.Namespace) -> int:
    options = {"max_pixels": args.max_pixels, "restart": args.restart}
    counts = pipeline.make_hashes(args.work, _sources(args), args.out, _parallel(args), **options)
    _say(f"{args.out}: {counts['written']:,} images, {counts['left_out']:,} could not be read")
    return 0


def _run_decontaminate(args: argparse.Namespace) -> int:
    config = _decontaminate(args)
    known = [Known(name, path, config) for name, path in _hash_files(args).items()]
    stage = decontaminate_stage(args.work, known, _pairs(args.ids, "--ids"), _parallel(args), args.partitions)
    for name, entry in stage.summary["sets"].items():
        ways = ", ".join(f"{count:,} {way}" for way, count in entry["ways"].items())
        _say(f"{name}: {entry['set_pictures_found']:,} of {entry['pictures']:,} found; training images dropped: {ways}")
    return 0


def _run_plan(args: argparse.Namespace) -> int:
    summary = plan_stage(args.work, _plan(args), _parallel(args), args.partitions).summary
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


def _run_embed(args: argparse.Namespace) -> int:
    choice = ModelChoice(args.model, args.weights, args.device, args.dtype, tuple(args.override), args.batch_size)
    parallel = share_of(replace(_parallel(args), workers=args.workers or 1))  # each worker would load the model
    stored = embed(args.folder, choice, parallel, name=args.name, restart=args.restart)
    if stored is None:
        _print_manifest(None, args.folder)
        return 0
    facts = stored.summary
    _say(f"{stored.folder}: {stored.num_samples:,} images, {stored.num_captions:,} captions, {stored.width} numbers each")
    for name in ("pictures_not_read", "captions_not_read"):
        if facts[name]:
            _say(f"  {facts[name]:>12,} {name.replace('pictures', 'images').replace('_', ' ')}: features of zeros, no score")
    return 0


def _run_group(args: argparse.Namespace) -> int:
    found = write_groups(args.folder, args.features, args.name, by=args.by, seed=args.seed, restart=args.restart)
    _say(f"{args.folder}: order {found.name} of {found.num_samples:,} samples")
    _say(f"mean cosine similarity {found.neighbours:.2f} of neighbours, {found.random_pairs:.2f} of random pairs")
    return 0


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
    _print_sources(Catalog(args.work).sources)
    _print_manifest(manifest, args.out)
    _say(f"report: {args.work / pipeline.REPORT_NAME}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "build": _run_build,
    "append": _run_build,
    "catalog": _run_catalog,
    "scan": _run_scan,
    "filter": _run_filter,
    "dedup": _run_dedup,
    "hashes": _run_hashes,
    "decontaminate": _run_decontaminate,
    "plan": _run_plan,
    "shard": _run_shard,
    "verify": _run_verify,
    "embed": _run_embed,
    "group": _run_group,
    "index": _run_index,
    "report": _run_report,
}
"""The function of each command; it returns the exit code."""
