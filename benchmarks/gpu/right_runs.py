"""Checks of whole runs: bitwise resumption, out of memory, and the ways to images that use the GPU."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from albef_ds.cli.main import main as command_line
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, step_folder
from albef_ds.config.schema import DataConfig
from albef_ds.data.images import decode, gpu_jpeg
from albef_ds.data.images.view import PendingViews, stack_views
from albef_ds.tasks.pretrain import PretrainTask
from benchmarks.gpu.common import device_of
from benchmarks.gpu.rows import Context, NotRun, Row
from benchmarks.jpegs import photograph, smooth_picture
from data_tools.files.shard_writer import ShardWriter

STEPS = 8
SIDE = 200
SMALL_MEMORY = 2 * 2**30


def corpus(folder: Path, count: int) -> Path:
    """Shards of `count` photographs, 640 x 480."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, samples_per_shard=16) as writer:
        for number in range(count):
            captions = [f"a dog number {number}", f"the cat of {number}"]
            writer.add(photograph(rng), "jpg", {"captions": captions, "image_id": f"id{number}", "source": "made"})
    return folder


def train(context: Context, output: Path, *settings: str) -> tuple[int, str]:
    """Trains the recipe `debug` with the plain engine; returns the exit code and the last line of its errors."""
    errors = io.StringIO()
    shards = Path(context.folder) / "corpus"
    if not shards.exists():
        corpus(shards, 40)
    given = [f"data.shards={shards}", f"engine.device={context.device}", "engine.kind=local", f"train.max_steps={STEPS}"]
    with contextlib.redirect_stderr(errors):
        code = command_line(["train", "--recipe", "debug", "--output", str(output), *given, *settings])
    lines = errors.getvalue().splitlines()
    print(errors.getvalue())
    return code, lines[-1] if lines else ""


def resume(context: Context) -> Iterator[Row]:
    """A run of eight steps beside one resumed from its fourth: every file of weights and moments is the same."""
    if context.device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    precision = "bf16" if context.device == "cuda" else "fp32"
    straight, resumed = (Path(context.folder) / name for name in ("straight", "resumed"))
    settings = [f"engine.precision={precision}", "train.save_every=4", "train.dry_run_batch=false"]
    ended = train(context, straight, *settings)[0]
    yield Row("exit code of the straight run", float(ended), at_most=0)
    checkpoint = straight / CHECKPOINTS_FOLDER / step_folder(4)
    ended = train(context, resumed, *settings, "--resume", str(checkpoint))[0]
    yield Row("exit code of the resumed run", float(ended), at_most=0)
    ends = [folder / CHECKPOINTS_FOLDER / step_folder(STEPS) for folder in (straight, resumed)]
    files = sorted(path.name for path in ends[0].glob("*.safetensors"))
    hashes = [[hashlib.sha256((end / name).read_bytes()).hexdigest() for name in files] for end in ends]
    different = [name for name, ours, theirs in zip(files, *hashes, strict=True) if ours != theirs]
    yield Row("files compared", float(len(files)), at_least=5)
    yield Row(f"files that differ{': ' if different else ''}{', '.join(different)}", float(len(different)), at_most=0)


def out_of_memory(context: Context) -> Iterator[Row]:
    """A micro-batch that does not fit ends the run with exit code 2 and one line that says what to change."""
    settings = []
    if context.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(SMALL_MEMORY / total)
        settings = ["model.vision.width=768", "model.vision.depth=12", "model.vision.num_heads=12", "model.vision.image_size=256"]
        settings += ["train.micro_batch_size=32", "train.global_batch_size=32"]
    else:  # a CPU's memory is everybody's: torch's error is planted

        def forward(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        PretrainTask.forward = forward  # type: ignore[method-assign]
    code, last = train(context, Path(context.folder) / "run", *settings)
    yield Row("exit code", float(code), at_most=2, at_least=2)
    yield Row("last line", last[:160])
    advice = "train.micro_batch_size" in last and "lower it" in last
    yield Row("the last line is the advice (1: yes)", float(advice), at_least=1)


def views(context: Context) -> Iterator[Row]:
    """Views made on the device against the loader's, and nvJPEG's decoding against libjpeg's."""
    device, rng = device_of(context), np.random.default_rng(0)
    pictures = [smooth_picture(rng) for _ in range(64 if context.model == "base" else 6)]
    now, later = DataConfig(), DataConfig(augment_device="model")
    usual = np.stack([decode.training_view(data, now, SIDE, 0, place) for place, data in enumerate(pictures)])
    images = stack_views([decode.training_view(data, later, SIDE, 0, place) for place, data in enumerate(pictures)])
    assert isinstance(images, PendingViews)
    made = images.make(images.buffer.to(device)).permute(0, 2, 3, 1).cpu()
    off = (made - torch.from_numpy(usual[..., :3])).abs()
    yield Row("views made on the device: mean difference", float(off.mean()), "grey levels", at_most=0.5)
    yield Row("share of pixels more than 2 levels off", float((off > 2).float().mean()), at_most=0.02)
    on_gpu = DataConfig(jpeg_device="cuda", rand_augment=False)
    if context.device == "cpu":
        gpu_jpeg.device = lambda: device  # type: ignore[assignment]
    else:
        try:
            gpu_jpeg.check("cuda")
        except Exception as error:
            raise NotRun(f"nvJPEG: {error}") from None
    plain = DataConfig(rand_augment=False)
    differences = [
        np.abs(
            decode.training_view(d, plain, SIDE, 0, i)[..., :3].astype(int) - decode.training_view(d, on_gpu, SIDE, 0, i)[..., :3]
        )
        for i, d in enumerate(pictures)
    ]
    # nvJPEG rounds and upsamples colours in its own way.
    yield Row("nvJPEG: mean difference", float(np.mean(differences)), "grey levels", at_most=1.5)
    yield Row("nvJPEG: largest difference", float(np.max(differences)), "grey levels")
