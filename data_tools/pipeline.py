"""Runs the whole chain for a new corpus (`build`) or to add sources to one (`append`).

A stage that is done with the same settings is skipped, so another call continues.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from albef_ds.common.atomic_files import scratch_path
from albef_ds.common.errors import ConfigError, DataError, MachineError
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest
from data_tools.config import CHUNK_ROWS, MAX_PIXELS, DecontaminateConfig, DedupConfig, FilterConfig, PlanConfig, ResizeConfig
from data_tools.execution.executors import Parallel
from data_tools.execution.stage_folder import SETTINGS_NAME, read_object
from data_tools.files.destination import Place, destination_of
from data_tools.readers.source import SourceSpec
from data_tools.stages.catalog import build_catalog
from data_tools.stages.decontaminate import Known, decontaminate_stage
from data_tools.stages.dedup import dedup_stage
from data_tools.stages.filter import filter_stage
from data_tools.stages.hash_files import FINGERPRINTS_NAME, read_hashes, save_hashes
from data_tools.stages.plan import plan_stage
from data_tools.stages.report import write_report
from data_tools.stages.scan import scan
from data_tools.stages.scan_results import Columns
from data_tools.stages.verify import verify
from data_tools.stages.write_shards import UPLOADS_NAME, shard_stage

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class ChainConfig:
    """Settings of every stage."""

    plan: PlanConfig
    filters: FilterConfig = field(default_factory=FilterConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    hash_files: dict[str, Path] = field(default_factory=dict)
    """Hash files of evaluation sets, by name."""
    evaluation_sources: tuple[SourceSpec, ...] = ()
    """Evaluation sets given as sources, whose hash files are made first."""
    id_lists: dict[str, str] = field(default_factory=dict)
    resize: ResizeConfig = field(default_factory=ResizeConfig)
    max_pixels: int = MAX_PIXELS
    fast: bool = False
    chunk_rows: int = CHUNK_ROWS
    partitions: int = 0
    """Parts of the keys in dedup, decontaminate and plan; 0: by the number of rows."""
    restart: bool = False


def make_hashes(
    work: Path, specs: list[SourceSpec], path: Path, parallel: Parallel, *, max_pixels: int = MAX_PIXELS, restart: bool = False
) -> dict[str, int]:
    """Catalogs and scans `specs` in `work` and writes their hash file; returns the counts `written` and `left_out`.

    Raises UserError if a source cannot be used or has no readable image.
    """
    build_catalog(work, specs, parallel, restart=restart)
    scan(work, parallel, max_pixels=max_pixels, restart=restart)
    return save_hashes(path, Columns(work))


def build(work: Path, place: Place, specs: list[SourceSpec], config: ChainConfig, parallel: Parallel) -> Manifest:
    """Makes the corpus at `place`, a folder or a URL, from `specs` by all stages.

    Raises UserError for what the user can fix; finished work is kept.
    """
    return _chain(work, place, specs, config, parallel, [])


def append(work: Path, place: Place, specs: list[SourceSpec], config: ChainConfig, parallel: Parallel) -> Manifest:
    """Adds `specs` to the corpus at `place` as further shards.

    The new samples are shuffled among themselves; existing shards are not touched. Images that the corpus already holds are
    dropped with their captions. Raises UserError as `build`, or if the corpus lacks its fingerprints.
    """
    destination = destination_of(place, work / UPLOADS_NAME)
    manifest, held = destination.manifest(), work / "held.parquet"
    if manifest is None:
        raise DataError(f"{place}/{MANIFEST_NAME} does not exist: give a corpus that `albef-data build` has written")
    if FINGERPRINTS_NAME not in destination.sizes():
        source = f"corpus=shards:{place}"
        raise DataError(f"{place}/{FINGERPRINTS_NAME} is missing: make it with `albef-data hashes` from the source {source}")
    plan = replace(config.plan, first_shard=len(manifest.shards), first_sample=manifest.num_samples)
    settings = work / "plan" / SETTINGS_NAME
    if settings.exists():
        # This append was planned before: it starts where the corpus ended then, and may have written its shards since.
        before = read_object(settings.parent, settings.name).get("settings")
        if not isinstance(before, dict) or not {"first_shard", "first_sample"} <= before.keys():
            raise DataError(f"{settings} is damaged: append with a new work folder")
        plan = replace(plan, first_shard=before["first_shard"], first_sample=before["first_sample"])
    wide = DecontaminateConfig(config.dedup.radius, config.dedup.tolerance, config.dedup.min_variance)
    if not held.exists():
        work.mkdir(parents=True, exist_ok=True)
        with scratch_path(held) as temporary:
            temporary.write_bytes(destination.read(FINGERPRINTS_NAME))
            read_hashes(temporary)  # refuses a damaged file, which would miss duplicates
            os.replace(temporary, held)
    known = Known("corpus", held, wide, "already there")
    return _chain(work, place, specs, replace(config, plan=plan), parallel, [known])


def _chain(
    work: Path, place: Place, specs: list[SourceSpec], config: ChainConfig, parallel: Parallel, known: list[Known]
) -> Manifest:
    if parallel.is_share:
        raise ConfigError("num_tasks serves single stages: run them one by one, or leave it out")
    build_catalog(work, specs, parallel, chunk_rows=config.chunk_rows, restart=config.restart)
    scan(work, parallel, max_pixels=config.max_pixels, fast=config.fast, restart=config.restart)
    filter_stage(work, config.filters)
    dedup_stage(work, config.dedup, parallel, config.partitions)
    known = known + [Known(name, path, config.decontaminate) for name, path in config.hash_files.items()]
    for spec in config.evaluation_sources:
        path = work / "evaluation" / f"{spec.name}.parquet"
        make_hashes(work / "evaluation" / spec.name, [spec], path, parallel, restart=config.restart)
        known.append(Known(spec.name, path, config.decontaminate))
    decontaminate_stage(work, known, config.id_lists, parallel, config.partitions)
    plan_stage(work, config.plan, parallel, config.partitions)
    write_report(work, work / REPORT_NAME)
    manifest = shard_stage(work, place, parallel, config.resize, restart=config.restart)
    assert manifest is not None
    if problems := verify(place, parallel):
        raise MachineError(f"{place} was written but does not verify ({problems[0]}): check the disk and run again with restart")
    return manifest
