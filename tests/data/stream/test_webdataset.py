"""Tars without a manifest give full batches on every rank."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef_ds.common.errors import DataError, UserError
from albef_ds.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig, VisionConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.webdataset import WebDatasetStream, _read_tar


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Four tars of four samples each; keys contain dots; half of the captions are in JSON, half in text files."""
    for shard in range(4):
        members = []
        for number in range(4 * shard, 4 * shard + 4):
            meta = json.dumps({"caption": f"dog {number}"}).encode()
            text = ("json", meta) if number % 2 else ("txt", f"dog {number}".encode())
            members += [(f"a.b/{number}.5.png", png(number)), (f"a.b/{number}.5.{text[0]}", text[1])]
        write_tar(tmp_path / f"{shard}.tar", members)
    return tmp_path


def run_config(data: DataConfig, micro: int) -> RunConfig:
    train = TrainConfig(seed=0, micro_batch_size=micro, global_batch_size=6 * micro)
    return RunConfig(model=ModelConfig(vision=VisionConfig(image_size=16)), data=data, train=train)


def take(shards: str, batches: int, *, workers: int = 0, max_broken: float = 0.01, **settings: Any) -> list[ImageTextBatch]:
    config = run_config(DataConfig(shards=shards, num_workers=workers, max_broken=max_broken), 4)
    source = WebDatasetStream(config, Share(**settings))
    try:
        return list(islice(source, batches))
    finally:
        source.close()


def keys(batches: list[ImageTextBatch]) -> set[str]:
    return {key for batch in batches for key in batch.keys}


def test_plain_tars_give_full_batches_without_end(tars: Path) -> None:
    batches = take(f"{tars}/{{0..3}}.tar", 30)
    assert all(len(batch) == 4 for batch in batches)
    assert keys(batches) == {f"a.b/{number}.5" for number in range(16)}
    assert all((batch.token_mask.sum(1) == 3).all() for batch in batches)  # [CLS] dog N


def test_ranks_read_different_tars_and_positions_are_unique(tars: Path) -> None:
    parts = [take(f"{tars}/{{0..3}}.tar", 6, rank=rank, world_size=2, workers=2) for rank in range(2)]
    assert not keys(parts[0]) & keys(parts[1])
    positions = [p for part in parts for batch in part for p in batch.positions.tolist()]
    assert len(set(positions)) == len(positions) == 48


def test_more_ranks_than_tars_still_all_have_batches(tars: Path) -> None:
    assert all(len(take(f"{tars}/0.tar", 3, rank=rank, world_size=3)) == 3 for rank in range(3))


@pytest.fixture
def server(tars: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tars)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_tars_are_read_from_a_server_without_a_shell(tars: Path, server: str) -> None:
    assert len(keys(take(f"{server}/{{0..3}}.tar", 8))) > 8
    harm = tars / "harm"
    with pytest.raises(DataError, match="cannot be read"):
        take(f"{server}/0.tar'; touch '{harm}", 1)
    assert not harm.exists()


@pytest.mark.parametrize("shards", ["pipe:cat x.tar", "s3://bucket/x.tar", "/nowhere/{0..2}.tar"])
def test_commands_foreign_urls_and_missing_files_are_refused(shards: str) -> None:
    with pytest.raises(UserError, match=r"data\.shards") as caught:
        take(shards, 1)
    assert "\n" not in str(caught.value)


def test_broken_samples_are_counted_by_tar(tars: Path) -> None:
    write_tar(
        tars / "5.tar",
        [("0.png", b"none"), ("0.txt", b"x"), ("1.png", png(1)), ("1.txt", b"!"), ("2.png", png(2)), ("2.txt", b"ok")],
    )
    config = DataConfig(shards=f"{tars}/5.tar", num_workers=0, max_broken=1.0)
    source = WebDatasetStream(run_config(config, 3), Share())
    assert keys(list(islice(source, 3))) == {"2"}
    assert set(source.broken_counts()[f"{tars}/5.tar"]) == {"undecodable picture", "empty caption"}


def test_a_truncated_or_empty_tar_is_one_line(tars: Path) -> None:
    whole = (tars / "0.tar").read_bytes()
    (tars / "6.tar").write_bytes(whole[: len(whole) // 5])
    write_tar(tars / "7.tar", [])
    for name, problem in (("6.tar", "cannot be read"), ("7.tar", "no sample")):
        with pytest.raises(DataError, match=problem) as caught:
            take(f"{tars}/{name}", 5, workers=1)
        assert "\n" not in str(caught.value)


def samples_in(path: Path) -> list[dict[str, Any]]:
    return list(_read_tar(str(path)))


def test_odd_names_and_links_are_one_sample_each(tmp_path: Path) -> None:
    members = [("._0.png", b"meta"), ("0.PNG", b"a"), ("0.TXT", b"x"), ("1.rgb.png", b"b"), ("1.alt.txt", b"y")]
    members += [("2.png", b"c"), ("2.txt", b"z"), ("2.png", b"d"), ("2.txt", b"w")]
    write_tar(tmp_path / "t.tar", members)
    with tarfile.open(tmp_path / "t.tar", "a") as tar:
        for name, link in (("3.png", "0.PNG"), ("3.txt", "0.TXT"), ("4.png", "gone.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, link
            tar.addfile(info)
    found = [(sample["__key__"], sample.get("png"), sample.get("txt")) for sample in samples_in(tmp_path / "t.tar")]
    assert found == [
        ("0", b"a", b"x"), ("1", b"b", b"y"), ("2", b"c", b"z"), ("2", b"d", b"w"), ("3", b"a", b"x"), ("4", b"", None)
    ]  # fmt: skip


def test_a_tar_with_a_damaged_header_ends_the_run_and_one_without_its_end_is_counted(tars: Path) -> None:
    path = tars / "0.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmember("a.b/1.5.png").offset
    damaged = bytearray(whole)
    damaged[second + 148] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"0\.tar is damaged \(a header is damaged"):
        samples_in(path)
    path.write_bytes(whole[:second])
    stream = WebDatasetStream(run_config(DataConfig(shards=str(path), num_workers=0, max_broken=1.0), 2), Share())
    assert keys(list(islice(stream, 10))) == {"a.b/0.5"}
    assert set(stream.broken_counts()[str(path)]) == {"tar without its end mark"}
    stream.close()
