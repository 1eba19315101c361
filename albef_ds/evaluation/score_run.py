"""Scores a run: chooses a checkpoint on validation, scores the test splits once with it, writes `metrics.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint.find import print_once, problem_of
from albef_ds.checkpoint.formats.read import build_for_inference, read_model
from albef_ds.checkpoint.formats.whole_model import Weights
from albef_ds.common import comm
from albef_ds.common.atomic_files import write_output
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.common.progress import Progress, silent
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, FAILURES_NAME, RESULTS_NAME, complete_steps, step_folder
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.retrieval import Split
from albef_ds.evaluation.evaluate import evaluate
from albef_ds.evaluation.failures import LIMIT, write_failures
from albef_ds.evaluation.main_metric import main_metric
from albef_ds.evaluation.protocols import PROTOCOLS, as_released, check_protocol
from albef_ds.evaluation.trained_on import lineage_of, overlap_of, weights_hash
from albef_ds.metrics.scores import EvaluationOptions, Scores
from albef_ds.tasks.registry import evaluation_of

_LONGEST_NAME = 60  # characters of a split's name in file names: at most 240 bytes

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """Model to score, and options."""

    path: Path
    """A run, a checkpoint or any complete model."""
    overrides: Sequence[str] = ()
    weights: Weights = "student"
    protocol: str = ""
    generate: bool = False
    layer: int | None = None
    failures: int = LIMIT
    """Failed queries that the page of each split shows; 0: no page. Of retrieval."""
    splits: dict[str, str] = field(default_factory=dict)
    """Split name to annotation files; empty: `data.test_annotations`."""


def score(request: Request, output: Path, device: torch.device, say: Say = print, progress: Progress = silent) -> dict[str, Any]:
    """Chooses a checkpoint on validation if the path is a run with several, scores the splits, writes `output`/metrics.json.

    Raises:
        ConfigError: no model, nothing to score, the protocol excludes the model, or annotations cannot be used.
    """
    candidates = _candidates(request.path)
    config = _config(candidates[0], request)
    validation: dict[str, dict[str, float]] = {}
    if config.data.eval_annotations and (len(candidates) > 1 or not request.protocol):
        for candidate in candidates:
            scores = _scores(candidate, request, device, config.data.eval_annotations, "val", progress)
            validation[candidate.name] = scores.metrics
            name, value = main_metric(config, validation[candidate.name])
            say(f"{candidate.name}: validation {name} {value:.2f}")
    chosen = candidates[-1]
    if validation:
        chosen = max(candidates, key=lambda candidate: main_metric(config, validation[candidate.name])[1])
    elif len(candidates) > 1:
        say(f"data.eval_annotations is empty, so validation cannot choose a checkpoint: taking the last, {chosen.name}")
    found = read_model(chosen, request.overrides)
    lineage = lineage_of(found)
    if request.protocol:
        check_protocol(request.protocol, config, lineage)
    splits = request.splits or named_files(config.data.test_annotations)
    if not splits and not validation:
        raise ConfigError("there is nothing to score: set data.test_annotations or data.eval_annotations")
    record: dict[str, Any] = {
        "checkpoint": chosen.name,
        "sha256": weights_hash(found),
        "weights": request.weights,
        "lineage": lineage,
        "task": config.task.kind,
        "resolution": config.model.vision.image_size,
        "protocol": {"name": request.protocol or "fine-tuned", "chosen_by": main_metric(config, validation[chosen.name])[0]}
        if validation
        else {"name": request.protocol or "as given", "chosen_by": "not chosen"},
        "overlap": overlap_of(found) or "not known",
        "validation": validation,
        "splits": {},
    }
    say(f"overlap of the pretraining images with evaluation sets: {record['overlap']}")
    for split, files in splits.items():
        page = output / f"{FAILURES_NAME}_{_part_of_name(split)}.html"

        def observe(data: Any, scores: Any, page: Path = page, split: str = split) -> None:
            number = write_failures(page, f"{chosen.name} on {split}", data, scores, request.failures)
            say(f"{split}: {number} failed queries, the worst in {page}")

        scores = _scores(chosen, request, device, files, "test", progress, observe if request.failures else None)
        record["splits"][split] = scores.metrics
        record["protocol"] |= scores.protocol
        for name, value in scores.metrics.items():
            say(f"{split} {name} {value:.2f}")
        evaluation = evaluation_of(config)
        if evaluation is not None and evaluation.write_predictions is not None and comm.rank() == 0:
            evaluation.write_predictions(output / f"{config.task.kind}_{_part_of_name(split)}_answers.json", scores.predictions)
    if comm.rank() == 0:
        write_record(output / RESULTS_NAME, record)
    return record


def named_files(setting: str) -> dict[str, str]:
    """Name to file, from comma-separated `NAME=FILE` or FILE; without a name, the file's stem is used.

    Raises `ConfigError` if two files have the same name.
    """
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in setting.split(","))):
        name, equals, path = part.partition("=")
        name, path = (name, path) if equals else (Path(part).stem, part)
        if name in found:
            raise ConfigError(f"data.test_annotations: {found[name]} and {path} are both named {name}: give NAME=FILE,NAME=FILE")
        found[name] = path
    return found


def _part_of_name(split: str) -> str:
    """The name of a split as part of a file's name."""
    return split.replace("/", "_")[:_LONGEST_NAME]


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes `record` as JSON. Raises `UserError` if it cannot be written."""
    write_output(path, json.dumps(record, indent=1) + "\n")


def _candidates(path: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; `[path]` if it is a model itself."""
    root = path / CHECKPOINTS_FOLDER
    if not root.is_dir():
        return [path]
    folders = [root / step_folder(step) for step in complete_steps(root)]
    undamaged = []
    for folder in folders:
        if problem := problem_of(folder):
            print_once(f"{folder} is damaged ({problem}): it is not scored")
        else:
            undamaged.append(folder)
    if not undamaged:
        raise WeightsError(f"{path} has no undamaged checkpoint: train first")
    return undamaged


def _config(path: Path, request: Request) -> RunConfig:
    config = read_model(path).model.config
    if request.protocol in PROTOCOLS:
        config = as_released(config)
    return parse_overrides(config, list(request.overrides))


def _scores(
    path: Path, request: Request, device: torch.device, files: str, split: Split, progress: Progress, observe: Any = None
) -> Scores:
    config = _config(path, request)
    model = read_model(path, request.overrides).model.select(request.weights, queues=False)
    task = build_for_inference(model, device, torch.float32)
    k_test = PROTOCOLS[request.protocol].k_test if request.protocol in PROTOCOLS else None
    options = EvaluationOptions(generate=request.generate, layer=request.layer, k_test=k_test, observe=observe, progress=progress)
    return evaluate(task, config, device, files, split, options)
