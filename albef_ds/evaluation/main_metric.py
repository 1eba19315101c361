"""The metric that stands for a run: what its checkpoints are chosen by. Computes none."""

from __future__ import annotations

from collections.abc import Mapping

from albef_ds.config.schema import RunConfig

HEADLINE = {
    "retrieval": "retrieval/mean_recall_itm",
    "grounding": "grounding/val_accuracy",
    "classification": "classification/accuracy",
    "vqa": "vqa/accuracy",
}
"""The metric that chooses a checkpoint, by what is evaluated; higher is better."""


def evaluated_as(config: RunConfig) -> str:
    """A key of `HEADLINE`: what the task is evaluated as."""
    if config.task.kind in ("classification", "vqa"):
        return config.task.kind
    return "grounding" if config.data.refs and config.task.kind == "retrieval" else "retrieval"


def headline_name(config: RunConfig, metrics: Mapping[str, object]) -> str | None:
    """The name of that metric among `metrics`, None if it is not there."""
    name = HEADLINE[evaluated_as(config)]
    # Without re-ranking or proposals the next of the same beginning serves.
    return name if name in metrics else next((key for key in metrics if key.startswith(name.rsplit("_", 1)[0])), None)
