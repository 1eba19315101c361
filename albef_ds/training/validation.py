"""Evaluates a run on its validation split during training and logs the results. `evaluation/` computes the metrics."""

from __future__ import annotations

import time

import numpy as np

from albef_ds.common import comm
from albef_ds.evaluation.evaluate import evaluate_validation
from albef_ds.evaluation.examples import Examples, draw, is_sharded, read_examples
from albef_ds.training.checkpointing import Checkpointing
from albef_ds.training.context import RunContext, Step
from albef_ds.training.watchdog import Phase


class Validation:
    """Evaluates every `train.eval_every` steps and at the end. All ranks call every method together."""

    def __init__(self, run: RunContext, checkpoints: Checkpointing) -> None:
        self._run, self._checkpoints = run, checkpoints
        self._examples: Examples | None = None

    def after_step(self, _step: Step) -> None:
        """Evaluates if it is due; `at_end` makes the last evaluation."""
        every = self._run.config.train.eval_every
        if every and self._run.progress.step % every == 0 and not self._run.progress.done:
            self._evaluate()

    def at_end(self) -> None:
        """Evaluates the final weights and deletes checkpoints, because another one may be the best now."""
        self._evaluate()
        self._checkpoints.tidy()

    def _evaluate(self) -> None:
        """Computes the task's metrics on the validation split, if there is one."""
        started = time.perf_counter()
        with self._run.watchdog.phase(Phase.EVALUATION, self._run.progress.step):
            metrics = evaluate_validation(self._run.engine.task, self._run.config, self._run.engine.device)
            if metrics and self._run.config.train.eval_pictures:
                self._show_examples()
        self._run.logger.pause(time.perf_counter() - started)
        if metrics:
            shown = [name for name in metrics if name.endswith(("_r1", "_r10", "accuracy"))]
            self._run.logger.event("evaluation", metrics, shown=shown)
            self._checkpoints.evaluated({name: value for name, value in metrics.items() if isinstance(value, (int, float))})

    def _show_examples(self) -> None:
        """Writes images of the evaluation to TensorBoard; rank 0 makes them alone if its parameters are not sharded."""
        task = self._run.engine.task
        if comm.rank() != 0 and not is_sharded(task):
            return
        first, self._examples = self._examples is None, self._examples or read_examples(self._run.config)
        if self._examples is not None:
            images, remark = draw(task, self._examples, self._run.engine.device, self._run.config.train.micro_batch_size)
            self._run.logger.images("evaluation", {name: np.asarray(image) for name, image in images.items()})
            if remark and first:
                self._run.logger.message(remark)
