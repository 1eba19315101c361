"""Compares the training loader with a `webdataset` pipeline, an `ImageFolder`-style one, and decoding alone.

    OMP_NUM_THREADS=1 python -m benchmarks.loader --out benchmarks/loader

All read the same synthetic JPEGs (640 x 480, about 160 KB) and make batches of the same views: random crop, bicubic resize,
flip, RandAugment(2, 7), normalisation, tokens. The peers decode and augment with Pillow, torchvision and timm. Ours is measured
three times: whole, whole with RandAugment's loops in numpy as without a C compiler, and with `data.augment_device=model`, which
leaves resizing, flip and RandAugment to the model's device. Rates are per CPU second of one thread, the least of all turns;
ratios are medians of the turns' ratios, so that a temporary slowdown affects both. Batches from loader processes are timed by
the wall clock. Freed memory is kept, as in loader processes, unless the environment configures the allocator (`GLIBC_TUNABLES`).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from timm.data.auto_augment import AugmentOp
from torchvision.transforms import v2

from albef_ds.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig, VisionConfig
from albef_ds.data import randomness
from albef_ds.data.images import decode, pixel_loops, pixel_loops_c, rand_augment_numpy
from albef_ds.data.images.crop import Crop
from albef_ds.data.images.normalise import MEAN, STD
from albef_ds.data.stream.allocator import keep_freed_memory
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.data.text.tokenizer import CaptionTokenizer
from benchmarks.jpegs import photograph
from benchmarks.record import record_parser, write_record
from data_tools.files.shard_writer import ShardWriter

SIDE, BATCH, TURNS = 256, 32, 24
DECODE, FLOOR = "decode alone, libjpeg-turbo", "decode, crop and resize alone"
OURS, PLAIN, DECODING = "ours, whole", "ours, whole, loops in numpy", "ours, views left to the model's device"
DEVICES: tuple[Literal["cpu", "model"], ...] = ("cpu", "model")
CAPTION = "a brown dog runs along the beach with a red ball in its mouth number {}"
NAMES = ("AutoContrast", "Equalize", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


class PeerView:
    """The same training view with Pillow, torchvision and timm."""

    def __init__(self) -> None:
        settings = {"translate_const": 10, "img_mean": (128, 128, 128), "interpolation": Image.Resampling.BILINEAR}
        make: Any = AugmentOp
        self.operations = [lambda image: image, *(make(name, 0.5, 7, settings) for name in NAMES)]
        bicubic = v2.InterpolationMode.BICUBIC
        self.geometry = v2.Compose([v2.RandomResizedCrop(SIDE, (0.2, 1.0), interpolation=bicubic), v2.RandomHorizontalFlip()])
        self.to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
        self.tokenizer = CaptionTokenizer()

    def __call__(self, image: bytes, caption: str) -> tuple[torch.Tensor, Any]:
        view = self.geometry(Image.open(io.BytesIO(image)).convert("RGB"))
        for number in torch.randint(len(self.operations), (2,)).tolist():
            view = self.operations[number](view)
        return self.to_tensor(view), self.tokenizer.encode(caption)


def webdataset_batches(corpus: Path, view: PeerView) -> Iterator[Any]:
    """Batches of the `webdataset` library's usual pipeline."""
    urls = sorted(str(path) for path in corpus.glob("*.tar"))
    pipeline = webdataset.WebDataset(urls, shardshuffle=False, handler=webdataset.reraise_exception).shuffle(100)
    pipeline = pipeline.map(lambda sample: view(sample["jpg"], json.loads(sample["json"])["captions"][0]))
    return iter(pipeline.batched(BATCH, collation_fn=lambda rows: torch.stack([image for image, _ in rows])))


class Folder(torch.utils.data.Dataset[Any]):
    """Image files, read, decoded and augmented one by one."""

    def __init__(self, folder: Path, view: PeerView) -> None:
        self.paths, self.view = sorted(folder.glob("*.jpg")), view

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.view(self.paths[row].read_bytes(), CAPTION.format(row))[0]


def stream(corpus: Path, workers: int, device: Literal["cpu", "model"] = "cpu") -> ImageTextStream:
    """Our stream over the corpus, with spawned processes."""
    model = ModelConfig(vision=VisionConfig(image_size=SIDE))
    data = DataConfig(shards=str(corpus), num_workers=workers, augment_device=device)
    train = TrainConfig(seed=0, micro_batch_size=BATCH, global_batch_size=BATCH)
    return ImageTextStream(RunConfig(model=model, data=data, train=train), Share(start_method="spawn" if workers else None))


def drain(batches: Iterator[Any], count: int) -> None:
    """Takes `count` batches."""
    assert sum(1 for _ in islice(batches, count)) == count


def wall_rate(corpus: Path, workers: int, batches: int, device: Literal["cpu", "model"]) -> float:
    """Images per second of wall-clock time through spawned loader processes after a warm-up."""
    source = stream(corpus, workers, device)
    ready = iter(source)
    drain(ready, 4 * workers)
    start = time.perf_counter()
    drain(ready, batches)
    rate = batches * BATCH / (time.perf_counter() - start)
    source.close()
    return rate


def drain_with(form: Any, batches: Iterator[Any], count: int) -> None:
    """`drain` with RandAugment's loops from module `form`."""
    before = rand_augment_numpy.LOOPS
    rand_augment_numpy.LOOPS = form
    drain(batches, count)
    rand_augment_numpy.LOOPS = before


def _ratio(seconds: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(seconds, ours, strict=True))


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs; 57 makes files of 58 KB")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as loader processes do
    rng = np.random.default_rng(0)
    images = [photograph(rng, args.quality) for _ in range(args.pictures)]
    batches = args.pictures // BATCH
    with tempfile.TemporaryDirectory() as scratch:
        corpus, folder = Path(scratch) / "corpus", Path(scratch) / "folder"
        folder.mkdir()
        with ShardWriter(corpus, samples_per_shard=64) as writer:
            for number, image in enumerate(images):
                meta = {"captions": [CAPTION.format(number)], "image_id": str(number), "source": "synthetic"}
                writer.add(image, "jpg", meta)
                (folder / f"{number:05d}.jpg").write_bytes(image)
        view, config = PeerView(), DataConfig()
        files = torch.utils.data.DataLoader(Folder(folder, view), BATCH, shuffle=True)
        ours, plain, decoding = iter(stream(corpus, 0)), iter(stream(corpus, 0)), iter(stream(corpus, 0, "model"))
        to_make = next(iter(stream(corpus, 0, "model")))

        def crop(number: int) -> Any:
            generator = randomness.generator(0, number, randomness.CROP)
            return decode.decode_crop(images[number], config.max_pixels, Crop(SIDE, config.crop_scale_min, generator))

        forms: dict[str, Callable[[], Any]] = {
            DECODE: lambda: [simplejpeg.decode_jpeg(image) for image in images],
            "decode alone, Pillow": lambda: [Image.open(io.BytesIO(image)).load() for image in images],
            FLOOR: lambda: [decode.scale_to(crop(i), SIDE) for i in range(len(images))],
            OURS: lambda: drain(ours, batches),
            PLAIN: lambda: drain_with(pixel_loops, plain, batches),
            DECODING: lambda: drain(decoding, batches),
            "the device's part of it, done on this processor": lambda: [to_make.to(torch.device("cpu")) for _ in range(batches)],
            "webdataset with Pillow, whole": lambda: drain(webdataset_batches(corpus, view), batches),
            "ImageFolder style with Pillow, whole": lambda: drain(iter(files), batches),
        }
        spent: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(TURNS):
            for name, form in forms.items():
                start = time.process_time()
                form()
                spent[name].append(time.process_time() - start)
        rates = {name: len(images) / min(seconds) for name, seconds in spent.items()}
        rows = [
            {
                "form": name,
                "pictures per CPU second": f"{rate:.0f}",
                "ours, whole / this": f"{_ratio(spent[name], spent[OURS]):.2f}",
                "views on the device / this": f"{_ratio(spent[name], spent[DECODING]):.2f}",
            }
            for name, rate in rates.items()
        ]
        by_workers = {
            f"{workers}, data.augment_device={device}": wall_rate(corpus, workers, 4 * batches, device)
            for workers in args.workers
            for device in DEVICES
        }
    size = np.mean([len(image) for image in images]) / 1000
    loops = "in C" if pixel_loops_c.LIBRARY else "in numpy, for lack of a C compiler"
    notes = [
        f"{len(images)} JPEGs of 640 x 480, {size:.0f} KB, to {SIDE} x {SIDE}, batches of {BATCH}; one thread, {TURNS} turns.",
        "`ours` and `whole` include reading, tokens, masks and collation. Ours returns bytes, which the device normalises",
        "(`albef_ds/data/images/normalise.py`), or crops, from which it makes the views (`albef_ds/data/images/view.py`);",
        f"the peers return floats. RandAugment's loops in `ours, whole` are {loops}.",
        "",
        *(f"- spawned loader processes: {name}: {rate:.0f} images per second" for name, rate in by_workers.items()),
        f"- processors available to this run: {len(os.sched_getaffinity(0))}, shared with other work (load average above)",
    ]
    packages = ["torch", "torchvision", "timm", "webdataset", "pillow", "simplejpeg", "numpy"]
    facts = {"rates": rates, "pictures per second by workers": by_workers}
    write_record(args.out, "The loader beside its floor and its peers", notes, rows, packages, facts)


if __name__ == "__main__":
    main()
