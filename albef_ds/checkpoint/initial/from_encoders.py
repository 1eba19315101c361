"""A model made of a ViT or DeiT file and a BERT, as pretraining starts from one: cross-attention and heads are random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from albef_ds.checkpoint.formats.read import Found
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.initial.load import load_initial_weights
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import InitConfig, PretrainConfig, RunConfig
from albef_ds.engine.build import build_task


def read_encoders(vision: Path, bert: Path, overrides: Sequence[str] = ()) -> Found:
    """The pretraining model that starts from `vision` and `bert`.

    Args:
        vision: file with timm's names (timm, DeiT).
        bert: file or folder with BERT's names.
        overrides: `section.field=value`, such as the model's shape and train.seed.

    Raises:
        WeightsError: a file that cannot be read or does not fit the shape.
    """
    start = replace(
        RunConfig(), init=InitConfig(visual_encoder=str(vision), text_encoder=str(bert)), task=PretrainConfig(queue_size=0)
    )
    config = parse_overrides(start, overrides)
    task = build_task(config)
    remarks = load_initial_weights(task, config)
    tensors = {name: LazyTensor.of(parameter.detach()) for name, parameter in task.named_parameters()}
    lineage = {"what": "initial weights", "vision": vision.name, "bert": bert.name, "seed": config.train.seed}
    return Found(WholeModel(config, tensors, (lineage,), remarks=tuple(remarks)), "encoders", vision)
