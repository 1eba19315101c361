"""Small models in folders, as `albef_ds.load` takes them, and random images as inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from albef_ds.checkpoint.formats.read import Found
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.config.schema import (
    ClassificationConfig,
    DataConfig,
    PretrainConfig,
    RetrievalConfig,
    RunConfig,
    TaskConfig,
    VqaConfig,
)
from albef_ds.engine.build import build_task
from albef_ds.tasks.base import Task
from tests.tiny import tiny_model

WORDS = (
    *("a", "red", "green", "blue", "cup", "ball", "table", "on", "the", "is", "what", "left", "of", "right"),
    *("dog", "cat", "##s", "cats", "yes", "no", "two", "three", "dogs"),
)
TASKS: dict[str, TaskConfig] = {
    "pretrain": PretrainConfig(queue_size=0),
    "retrieval": RetrievalConfig(queue_size=0),
    "vqa": VqaConfig(decoder_layers=2),
    "ve": ClassificationConfig(num_classes=3),
    "nlvr": ClassificationConfig(num_classes=2, num_images=2),
}


def vocabulary(folder: Path) -> Path:
    """A WordPiece vocabulary of a few words."""
    path = folder / "words.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


def tiny_config(kind: str, vocab_file: Path) -> RunConfig:
    """A configuration with images of 32 px, patches of 8, two layers of each kind and a small vocabulary."""
    text = {"vocab_size": 5 + len(WORDS), "width": 24, "intermediate_width": 48, "max_positions": 25, "dropout": 0.1}
    model = tiny_model(vision={"image_size": 32}, text=text)
    return replace(RunConfig(), model=model, task=TASKS[kind], data=DataConfig(vocab_file=str(vocab_file)))


def tiny_task(config: RunConfig) -> Task:
    """A task whose weights are far from their tiny initial values, in eval mode."""
    task = build_task(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if name != "temperature":
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return task.eval()


def found(task: Task, config: RunConfig) -> Found:
    """The task as `read_model` would return it, for conversions."""
    tensors = {name: LazyTensor.of(parameter.detach()) for name, parameter in task.named_parameters()}
    return Found(WholeModel(config, tensors, ({"what": "made for a test"},)), "encoders", Path("test"))


def model_folder(folder: Path, kind: str) -> Path:
    """A model folder of `kind` with random weights."""
    config = tiny_config(kind, vocabulary(folder))
    path = folder / kind
    convert(found(tiny_task(config), config), path, Options("folder"))
    return path


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Random pixels."""
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
