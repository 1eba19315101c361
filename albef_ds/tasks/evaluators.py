"""The evaluation of each task: its reader of annotations, data set, metric, and writer of predictions.

The metrics are in `metrics/`. `evaluation/` chooses the files and the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef_ds.common import comm
from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import DataConfig, RunConfig
from albef_ds.config.tasks import ItmScore
from albef_ds.data.annotations.read import Reader, read_boxed_expressions, read_pairs, read_questions, read_statements
from albef_ds.data.annotations.records import ExpressionRecord
from albef_ds.data.evaluation_sets.annotated import PairSet, TextImageSet
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.metrics.classification import evaluate_classification
from albef_ds.metrics.grounding import evaluate_grounding
from albef_ds.metrics.retrieval import K_TEST, RetrievalData, RetrievalEvaluator
from albef_ds.metrics.scores import EvaluationOptions, Scores
from albef_ds.metrics.vqa import check_answer_list, evaluate_vqa
from albef_ds.metrics.vqa_submission import write_submission
from albef_ds.models.albef import ALBEF
from albef_ds.tasks.contrastive import ContrastiveTask


def _ready(config: RunConfig) -> object:
    """Accepts every configuration."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of a task. All ranks call `evaluate` together and get the same numbers."""

    read: Reader
    evaluate: Callable[[Any, Any, RunConfig, torch.device, EvaluationOptions], Scores]
    """Takes the task (on the device, with or without an engine), the set, the configuration, the device and options."""
    make_set: Callable[[Sequence[Any], DataConfig, int], Any] = TextImageSet
    """Takes records, the data section and the side of the images. Raises `UserError` for unusable images or texts."""
    corpus_set: Callable[[RunConfig], Any] | None = None
    """Returns the set in the corpus folder `data.eval_shards`, for tasks that can be evaluated on a corpus."""
    check: Callable[[RunConfig], object] = _ready
    """Raises `UserError` if a file that `evaluate` needs besides records and images is missing."""
    write_predictions: Callable[[Path, Any], None] | None = None
    """Writes `Scores.predictions` to a new file in the format of the benchmark's server."""


def _evaluate_retrieval(
    task: ContrastiveTask, data: RetrievalData, config: RunConfig, device: torch.device, options: EvaluationOptions
) -> Scores:
    """Returns recall in both directions. The momentum model has no ITM head, so the student's is used."""
    own: int = getattr(config.task, "k_test", K_TEST)
    k_test = options.k_test or own
    itm_score: ItmScore = getattr(config.task, "ranking_score", "margin")
    # Between forward passes ZeRO-3 may keep an empty placeholder; then the initial value is used.
    temperature = task.temperature.detach()
    evaluator = RetrievalEvaluator(
        _model_of(task, options.momentum),
        task.itm_head,
        data,
        device,
        k_test,
        batch_size=config.train.micro_batch_size,
        temperature=float(temperature) if temperature.numel() else task.config.temperature,
        itm_score=itm_score,
        prefix="retrieval_momentum" if options.momentum else "retrieval",
        progress=options.progress,
    )
    max_tokens = config.evaluation_data.max_tokens
    scores = evaluator.score()
    if options.observe is not None and comm.rank() == 0:
        options.observe(data, scores)
    return Scores(
        dict(scores.metrics(evaluator.prefix)), protocol={"k_test": k_test, "itm_score": itm_score, "max_tokens": max_tokens}
    )


def _evaluate_grounding(
    task: ContrastiveTask,
    data: TextImageSet[ExpressionRecord],
    config: RunConfig,
    device: torch.device,
    options: EvaluationOptions,
) -> Scores:
    """Returns the accuracy of Grad-CAM's boxes. Raises `ConfigError` for weights that ZeRO-3 has partitioned."""
    if config.engine.kind == "zero" and config.engine.stage == 3 and any(p.numel() == 0 for p in task.parameters()):
        raise ConfigError("grounding is evaluated with whole parameters: use engine.stage=2, or `albef-ds evaluate` afterwards")
    albef, size = _model_of(task, options.momentum), config.train.micro_batch_size
    return evaluate_grounding(albef, task.itm_head, data, size, device, options)


def _model_of(task: ContrastiveTask, momentum: bool) -> ALBEF:
    albef = task.momentum.modules["albef"] if momentum else task.model
    assert isinstance(albef, ALBEF)
    return albef


def corpus_set(config: RunConfig) -> RetrievalSet:
    """Returns the first `train.eval_samples` samples of `data.eval_shards`."""
    corpus, size = config.data.eval_shards, config.model.vision.image_size
    return RetrievalSet(corpus, config.evaluation_data, size, limit=config.train.eval_samples)


RETRIEVAL = Evaluation(read=read_pairs, make_set=PairSet, evaluate=_evaluate_retrieval, corpus_set=corpus_set)
GROUNDING = Evaluation(read=read_boxed_expressions, evaluate=_evaluate_grounding)
CLASSIFICATION = Evaluation(read=read_statements, evaluate=evaluate_classification)
VQA = Evaluation(read=read_questions, evaluate=evaluate_vqa, check=check_answer_list, write_predictions=write_submission)
