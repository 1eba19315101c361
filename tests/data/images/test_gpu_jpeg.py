"""JPEGs decoded on a GPU: the same code on the CPU device, and the error without a GPU."""

from __future__ import annotations

import io
import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef_ds.common.errors import MachineError
from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode, gpu_jpeg, jpeg
from albef_ds.data.images.crop import Crop
from albef_ds.data.stream import loader

CPU = torch.device("cpu")
ON_GPU = DataConfig(jpeg_device="cuda", num_workers=0)


def encode(format_: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((30, 24), 60).resize((300, 240), Image.Resampling.BICUBIC).convert(mode).save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.fixture
def cpu_as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_jpeg, "device", lambda: CPU)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_a_view_is_the_loaders_to_two_grey_levels(mode: str, options: dict[str, Any]) -> None:
    data = encode("JPEG", mode, **options)
    for position in range(6):
        box = Crop(200, 0.2, randomness.generator(0, position, randomness.CROP)).place(300, 240)
        crop = Crop(200, 0.2, randomness.generator(0, position, randomness.CROP))
        usual = decode.scale_to(decode.decode_crop(data, 10**6, crop), 200)
        view = gpu_jpeg.cropped_view(data, box, 200, CPU)
        assert view is not None and view.shape == (200, 200, 4) and view.dtype == np.uint8 and view.flags.c_contiguous
        assert np.abs(view[..., :3].astype(int) - usual[..., :3]).max() <= 2


def test_the_setting_takes_the_gpus_way_and_draws_the_same_crop_flip_and_operations(
    cpu_as_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen, cropped = encode("JPEG"), [], gpu_jpeg.cropped_view
    monkeypatch.setattr(gpu_jpeg, "cropped_view", lambda *given: seen.append(given) or cropped(*given))
    for position in range(8):
        usual = decode.training_view(data, DataConfig(rand_augment=False), 200, 0, position)[..., :3].astype(int)
        ours = decode.training_view(data, DataConfig(rand_augment=False, jpeg_device="cuda"), 200, 0, position)[..., :3]
        assert np.abs(usual - ours).max() <= 2
    assert len(seen) == 8
    assert decode.training_view(data, ON_GPU, 64, 0, 0).shape == (64, 64, 4)


def test_what_the_gpu_does_not_decode_the_cpu_does(cpu_as_gpu: None) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for data in (encode("PNG"), encode("JPEG", exif=turned), encode("JPEG", "CMYK")):
        assert np.array_equal(decode.training_view(data, ON_GPU, 64, 0, 3), decode.training_view(data, DataConfig(), 64, 0, 3))
    for broken in (b"\xff\xd8\xff", encode("JPEG")[:600]):
        assert gpu_jpeg.cropped_view(broken, (0, 0, 10, 10), 8, CPU) is None
        with pytest.raises(BrokenSampleError, match="undecodable picture"):
            decode.training_view(broken, ON_GPU, 64, 0, 0)
    with pytest.raises(BrokenSampleError, match="too many pixels"):
        decode.training_view(encode("JPEG"), DataConfig(jpeg_device="cuda", max_pixels=100), 64, 0, 0)


def test_the_gpus_way_needs_no_simplejpeg(cpu_as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    views, pictures = [], [encode("JPEG", mode) for mode in ("RGB", "L")]
    for decoder in (jpeg.simplejpeg, None):
        monkeypatch.setattr(jpeg, "simplejpeg", decoder)
        views.append([decode.training_view(picture, ON_GPU, 200, 0, 3) for picture in pictures])
        assert jpeg.plain(encode("JPEG", "CMYK")) is None
        assert jpeg.plain(b"\xff\xd8\xff") is None
    assert all(np.array_equal(a, b) for a, b in zip(*views, strict=True))


def test_without_a_gpu_the_setting_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match=r"data\.jpeg_device=cuda but torch sees no GPU: use data\.jpeg_device=cpu"):
        next(loader.deliveries([], ON_GPU, sampler=None, pin_memory=False, start_method=None))


@pytest.mark.parametrize(("given", "started"), [(None, "spawn"), ("forkserver", "forkserver")])
def test_its_processes_are_spawned(given: str | None, started: str, cpu_as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process cannot use its parent's GPU."""
    methods: list[str | None] = []

    def context(method: str | None) -> Any:
        methods.append(method)
        raise RuntimeError("far enough")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(multiprocessing, "get_context", context)
    config = DataConfig(jpeg_device="cuda", num_workers=1)
    with pytest.raises(RuntimeError, match="far enough"):
        next(loader.deliveries([], config, sampler=None, pin_memory=False, start_method=given))
    assert methods == [started]


def test_a_torchvision_without_the_decoder_is_refused_at_the_start(cpu_as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu_jpeg.check("cuda")

    def absent(*_: Any, **__: Any) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nstack")

    monkeypatch.setattr(gpu_jpeg, "decode_jpeg", absent)
    with pytest.raises(MachineError, match=r"decodes no JPEG on it \(decode_jpegs_cuda: .*support\): use data.jpeg_device=cpu"):
        gpu_jpeg.check("cuda")
    gpu_jpeg.check("cpu")
