"""Views made on the model's device compared with those that loader processes make, the reference."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef_ds.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig, VisionConfig
from albef_ds.data.batch import RawBatch
from albef_ds.data.images import decode, rand_augment_numpy
from albef_ds.data.images.rand_augment import Drawn, Operation
from albef_ds.data.images.rand_augment_torch import rand_augment
from albef_ds.data.images.view import PendingView, PendingViews, stack_views
from albef_ds.data.stream.annotated import annotated_stream
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.tasks.registry import kind_of
from tests.data_tools.scenes.tiny import tiny_config
from tests.tasks.finetuning import task_batch

CPU = torch.device("cpu")
LATER = DataConfig(augment_device="model")
OPERATIONS = list(Operation)[1:]
SIZES = ((480, 640), (300, 200), (64, 900), (20, 30))


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (size[0] // 20 + 2, size[1] // 20 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def levels(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 4) as a batch of one, float32 (1, 3, H, W)."""
    return torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_operation_gives_the_same_image_within_a_level(operation: Operation) -> None:
    pictures = [np.array(picture(seed, (64, 64)).convert("RGBA")) for seed in range(6)]
    steps: list[Drawn] = [(operation, 1 if seed % 2 else -1) for seed in range(6)]
    ours = rand_augment(torch.cat([levels(pixels) for pixels in pictures]), [[step] for step in steps])
    usual = torch.cat([levels(rand_augment_numpy.apply(pixels, *step)) for pixels, step in zip(pictures, steps, strict=True)])
    assert (ours - usual).abs().max() <= 1
    assert (ours == usual).float().mean() > 0.9
    assert (ours == ours.round()).all() and ours.min() >= 0 and ours.max() <= 255


def test_operations_follow_each_other_and_touch_the_images_that_drew_them() -> None:
    pixels = np.array(picture(0, (64, 64)).convert("RGBA"))
    drawn: list[list[Drawn]] = [
        [],
        [(Operation.ROTATE, 1), (Operation.EQUALIZE, 1)],
        [(Operation.EQUALIZE, 1), (Operation.ROTATE, 1)],
    ]
    batch = levels(pixels).expand(3, -1, -1, -1)
    ours = rand_augment(batch, drawn)
    assert torch.equal(ours[0], batch[0]) and (batch == levels(pixels)).all()
    for view, steps in zip(ours, drawn, strict=True):
        usual = levels(rand_augment_numpy.rand_augment(pixels, steps))[0]
        assert (view - usual).abs().mean() < 0.5
    assert (ours[1] - ours[2]).abs().mean() > 1


def test_flat_and_tiny_images_pass_through_every_operation() -> None:
    for side in (64, 2, 1):
        flat = torch.full((1, 3, side, side), 77.0)
        for operation in OPERATIONS:
            changed = rand_augment(flat, [[(operation, 1)]])
            assert changed.shape == flat.shape and changed.isfinite().all()
            usual = rand_augment_numpy.apply(np.full((side, side, 4), 77, np.uint8), operation)
            assert (changed - levels(usual)).abs().max() <= 1, operation.name


@pytest.mark.parametrize("rand_augment", [False, True])
def test_views_of_images_of_all_sizes_are_the_loaders_within_rounding(rand_augment: bool) -> None:
    pictures = [encode(picture(number, SIZES[number % 4]), "PNG" if number % 5 == 0 else "JPEG") for number in range(40)]
    now, later = (DataConfig(rand_augment=rand_augment, augment_device=device) for device in ("cpu", "model"))
    usual = np.stack([decode.training_view(data, now, 128, 0, place) for place, data in enumerate(pictures)])
    images = stack_views([decode.training_view(data, later, 128, 0, place) for place, data in enumerate(pictures)])
    assert isinstance(images, PendingViews) and images.buffer.dtype == torch.uint8
    assert len(set(images.sizes)) > 20 and any(images.flips)
    off = (images.make(images.buffer).permute(0, 2, 3, 1) - torch.from_numpy(usual[..., :3])).abs()
    if not rand_augment:
        assert off.max() <= 1
    # Equalizing spreads single levels of what came before it.
    assert off.mean((1, 2, 3)).max() < 1


def test_a_huge_image_is_scaled_before_it_is_sent() -> None:
    huge = encode(Image.new("RGB", (3000, 2000), "red"), "PNG")
    view = decode.training_view(huge, LATER, 128, 0, 0)
    assert isinstance(view, PendingView) and view.crop.shape == (128, 128, 4)
    photograph = decode.training_view(encode(picture(0, (2000, 3000))), LATER, 128, 0, 0)
    assert isinstance(photograph, PendingView) and 128 <= min(photograph.crop.shape[:2]) < 256


def test_slices_of_a_batch_take_their_crops_along() -> None:
    pending = [decode.training_view(encode(picture(seed, SIZES[seed % 4])), LATER, 32, 0, seed) for seed in range(12)]
    for per_sample, kind in ((0, "retrieval"), (0, "vqa"), (2, "nlvr2")):
        whole = task_batch(kind, 0, 12 // (per_sample or 1))
        batch = replace(whole, images=stack_views(pending, per_sample))
        made = batch.to(CPU)
        assert made.images.dtype == torch.float32 and made.images.shape == (len(batch), *([2] if per_sample else []), 3, 32, 32)
        parts = [batch[slice(start, start + 3)].to(CPU).images for start in range(0, len(batch), 3)]
        assert torch.equal(torch.cat(parts), made.images)
        assert len(batch[slice(2, 2)]) == 0


def matching(now: RawBatch, later: RawBatch) -> None:
    assert isinstance(later.images, PendingViews) and now.keys == later.keys and torch.equal(now.token_ids, later.token_ids)
    images, made = now.to(CPU).images, later.to(CPU).images
    assert images.shape == made.shape and images.dtype == made.dtype
    level = 1 / 255 / 0.26
    assert (images - made).abs().mean() < level


def test_the_stream_gives_the_same_batches(make_corpus: Any) -> None:
    folder = str(make_corpus())
    streams = [
        ImageTextStream(
            RunConfig(
                model=ModelConfig(vision=VisionConfig(image_size=16)),
                data=DataConfig(shards=folder, num_workers=workers, augment_device=device),
                train=TrainConfig(seed=3, micro_batch_size=6, global_batch_size=6),
            ),
            Share(start_method="spawn" if workers else None),
        )
        for device, workers in (("cpu", 0), ("model", 0), ("model", 1))
    ]  # fmt: skip
    now, later, spawned = (list(islice(stream, 2)) for stream in streams)
    for stream in streams:
        stream.close()
    for one, two, three in zip(now, later, spawned, strict=True):
        matching(one, two)
        assert torch.equal(two.images.buffer, three.images.buffer)
        assert replace(two.images, buffer=CPU) == replace(three.images, buffer=CPU)  # all but the buffer


@pytest.mark.parametrize("recipe", ["scenes_retrieval", "scenes_vqa", "scenes_nlvr"])
def test_fine_tuning_meets_the_same_batches(recipe: str, scenes: Path) -> None:
    batches = []
    for device in ("cpu", "model"):
        config = tiny_config(recipe, scenes, "data.rand_augment=true", "data.flip=true", f"data.augment_device={device}")
        stream = annotated_stream(config, kind_of(config.task).samples, Share())
        batches.append(next(iter(stream)))
        stream.close()
    matching(*batches)
