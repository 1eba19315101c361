"""Lineage of a model: the runs that its weights come from, oldest first, each with a hash of its weights."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from albef_ds.checkpoint.formats.read import Found, read_model
from albef_ds.checkpoint.tensor_files.hashed import sha256_of
from albef_ds.common.errors import UserError
from albef_ds.common.run_files import STUDENT_NAME
from albef_ds.data.store.open import load_manifest


def weights_hash(found: Found) -> str:
    """SHA-256 of the file that holds the student; if it is split into several files, of the first."""
    if found.path.is_file():
        return sha256_of(found.path)
    chosen = found.path / STUDENT_NAME
    return sha256_of(chosen if chosen.is_file() else min(found.path.glob("*.safetensors")))


def lineage_of(found: Found) -> list[dict[str, Any]]:
    """The steps that led to a model, oldest first: recipe, task and weights of a run; the stored lineage of other files.

    If a run's initial weights are gone, a step says so.
    """
    if found.form != "checkpoint":
        return list(found.model.lineage)
    config, steps = found.model.config, []
    if initial := config.init.checkpoint:
        try:
            steps = lineage_of(read_model(initial))
        except UserError:
            steps = [{"what": "initial weights that are no longer there", "name": Path(initial).name}]
    run = {"what": "run", "recipe": config.recipe, "task": config.task.kind, "resolution": config.model.vision.image_size}
    return [*steps, run | {"checkpoint": found.path.name, "sha256": weights_hash(found)}]


def recipes_in(lineage: list[dict[str, Any]]) -> list[str]:
    """Names of the recipes in a lineage."""
    return [str(step["recipe"]) for step in lineage if step.get("recipe")]


def overlap_of(found: Found) -> dict[str, Any]:
    """Overlap of the model's training corpora with evaluation sets, as decontamination found it; empty if unknown.

    Maps set name to {pictures, found}, as in the manifest of the pretraining shards.
    """
    config = found.model.config
    sets: dict[str, Any] = {}
    if found.form == "checkpoint" and config.init.checkpoint:
        with contextlib.suppress(UserError):
            sets |= overlap_of(read_model(config.init.checkpoint))
    for shards in config.data.corpora:
        with contextlib.suppress(UserError):
            sets |= load_manifest(shards, attempts=2).info.get("evaluation_sets", {})
    return sets
