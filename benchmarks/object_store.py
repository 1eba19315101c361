"""Compares the training loader over an S3 server with the one over local shards, and with peers over the same server.

    OMP_NUM_THREADS=1 python -m benchmarks.object_store --out benchmarks/object_store

moto's S3 server runs in a process of its own behind a proxy that waits 20 ms before each answer. All read the same synthetic
JPEGs (640 x 480) and make batches of the same views with two loader processes: ours through `data.shards`, webdataset through a
`pipe:` to curl, the cheapest program that signs a request and writes an object to its output, mosaicml-streaming and
litdata from their own formats on the same server, as far as they are installed. Peers decode and augment as ours does
(`decode.training_view`) and tokenise the same caption, so that only the way of the bytes differs. Every form begins with an empty
cache in a process of its own, and reads `--epochs` passes; turns alternate, and each ratio is that of one turn. The servers share
this machine's cores with the loaders, which favours local shards.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from albef_ds.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig, VisionConfig
from albef_ds.data.images import decode
from albef_ds.data.images.view import stack_views
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share, start_worker
from albef_ds.data.text.tokenizer import CaptionTokenizer
from benchmarks.jpegs import photograph
from benchmarks.record import record_parser, write_record
from data_tools.files.shard_writer import ShardWriter
from tests import servers

SIDE, BATCH, WORKERS, LATENCY = 256, 32, 2, 0.02
CAPTION = "a brown dog runs along the beach with a red ball in its mouth number {}"
BUCKET = "corpus"
LOCAL, STORE = "local shards", "S3 server"


class View:
    """The training view and the tokens of a sample, for peers: the work of `SampleBuilder` without masks."""

    def __init__(self) -> None:
        self.config, self.tokenizer, self.number = DataConfig(), CaptionTokenizer(), 0

    def __call__(self, image: bytes, caption: str) -> tuple[Any, Any]:
        self.number += 1
        return decode.training_view(image, self.config, SIDE, 0, self.number), self.tokenizer.encode(caption)


def collate(rows: list[tuple[Any, Any]]) -> Any:
    """Returns the views as one batch."""
    return stack_views([view for view, _ in rows])


def ours(shards: str, cache: Path) -> Iterator[Any]:
    """Returns our stream over `shards`."""
    data = DataConfig(shards=shards, num_workers=WORKERS, cache=str(cache))
    train = TrainConfig(seed=0, micro_batch_size=BATCH, global_batch_size=BATCH)
    config = RunConfig(model=ModelConfig(vision=VisionConfig(image_size=SIDE)), data=data, train=train)
    return iter(ImageTextStream(config, Share(start_method="fork")))


def webdataset_pipe(names: list[str]) -> Iterator[Any]:
    """Returns webdataset's usual pipeline over `pipe:` URLs."""
    view = View()
    sign = '--aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY"'
    urls = [f"pipe:curl -s -f {sign} {os.environ['AWS_ENDPOINT_URL']}/{BUCKET}/local/{name}" for name in names]
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), nodesplitter=webdataset.split_by_node).shuffle(1000)
    data = data.map(lambda sample: view(sample["jpg"], json.loads(sample["json"])["captions"][0]))
    data = data.batched(BATCH, collation_fn=collate, partial=False).repeat()
    return iter(webdataset.WebLoader(data, batch_size=None, num_workers=WORKERS, worker_init_fn=start_worker))


def streaming_batches(cache: Path) -> Iterator[Any]:
    """Returns mosaicml-streaming's loader over its own shards on the server."""
    from streaming import StreamingDataset  # optional package

    class Data(StreamingDataset):
        view = View()

        def __getitem__(self, row: int) -> Any:
            sample = super().__getitem__(row)
            return self.view(sample["image"], sample["caption"])

    data = Data(remote=f"s3://{BUCKET}/mds", local=str(cache), shuffle=True, batch_size=BATCH)
    while True:
        yield from torch.utils.data.DataLoader(data, BATCH, num_workers=WORKERS, collate_fn=collate, drop_last=True)


def litdata_batches(cache: Path) -> Iterator[Any]:
    """Returns litdata's loader over its own chunks on the server."""
    from litdata import StreamingDataLoader, StreamingDataset  # optional package
    from litdata.streaming import downloader

    # Its client refuses servers without TLS, and this option has no public name.
    downloader._OBSTORE_CLIENT_OPTIONS = {**(downloader._OBSTORE_CLIENT_OPTIONS or {}), "allow_http": True}

    class Data(StreamingDataset):
        view = View()

        def __getitem__(self, row: Any) -> Any:
            sample = super().__getitem__(row)
            return self.view(sample["image"], sample["caption"])

    endpoint = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    data = Data(f"s3://{BUCKET}/lit", cache_dir=str(cache), shuffle=True, drop_last=True, storage_options=endpoint)
    while True:
        yield from StreamingDataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate)


def measure(make: Callable[[], Iterator[Any]], batches: int, epochs: int) -> dict[str, float]:
    """Returns seconds to the first batch, then seconds and CPU seconds of the first epoch and of the later ones."""
    start = time.perf_counter()
    source = make()
    next(source)
    marks, used = [time.perf_counter()], [cpu_seconds()]
    for epoch in range(epochs):
        count = batches - (epoch == 0)
        assert sum(1 for _ in islice(source, count)) == count
        marks.append(time.perf_counter())
        used.append(cpu_seconds())
    # Ends the loader processes; their CPU time counts from then on.
    if hasattr(source, "close"):
        source.close()
    del source
    gc.collect()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(part.ru_utime + part.ru_stime for part in usage)
    return {
        "first batch": marks[0] - start,
        "cold": marks[1] - start,
        "warm": marks[-1] - marks[1],
        "cpu": cpu,
        "steady": used[-1] - used[1],
    }


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process, of those below it, and of those that have ended."""
    ticks, waiting, total = os.sysconf("SC_CLK_TCK"), [os.getpid()], 0
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total / ticks


def in_process(form: tuple[str, list[Any]], batches: int, epochs: int) -> dict[str, float]:
    """Runs one form in a fresh process, since libraries keep state in theirs."""
    given = json.dumps({"form": form, "batches": batches, "epochs": epochs})
    done = subprocess.run([sys.executable, "-m", "benchmarks.object_store", "--form", given], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{form[0]} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_form(text: str) -> None:
    """Prints the measurement of one form as JSON."""
    torch.set_num_threads(1)
    given = json.loads(text)
    name, arguments = given["form"]
    cache = Path(tempfile.mkdtemp(prefix="object-store-cache-"))
    forms: dict[str, Callable[[], Iterator[Any]]] = {
        LOCAL: lambda: ours(arguments[0], cache),
        STORE: lambda: ours(arguments[0], cache),
        "webdataset": lambda: webdataset_pipe(arguments),
        "mosaicml-streaming": lambda: streaming_batches(cache),
        "litdata": lambda: litdata_batches(cache),
    }
    try:
        print(json.dumps(measure(forms[name], given["batches"], given["epochs"])), flush=True)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    os._exit(0)


def serve(queue: Any, latency: float) -> None:
    """Runs the server and its proxy, and answers with their address; the environment is the caller's to set."""
    with servers.s3_server() as faults:
        faults.latency = latency
        queue.put(os.environ["AWS_ENDPOINT_URL"])
        while True:
            time.sleep(60)
            faults.requests.clear()


def write_corpora(folder: Path, count: int, per_shard: int) -> list[str]:
    """Writes and uploads the same pictures in each library's format; returns the names of our tars."""
    rng = np.random.default_rng(0)
    made = [photograph(rng) for _ in range(64)]  # each occurs several times, with other bytes at its end
    images = [made[n % 64] + n.to_bytes(4, "little") for n in range(count)]
    with ShardWriter(folder / "local", samples_per_shard=per_shard) as writer:
        for number, image in enumerate(images):
            meta = {"captions": [CAPTION.format(number)], "image_id": str(number), "source": "synthetic"}
            writer.add(image, "jpg", meta)
    size = per_shard * len(images[0])
    if find_spec("streaming"):
        from streaming import MDSWriter  # optional package

        with MDSWriter(out=str(folder / "mds"), columns={"image": "bytes", "caption": "str"}, size_limit=size) as mds:
            for number, image in enumerate(images):
                mds.write({"image": image, "caption": CAPTION.format(number)})
    if find_spec("litdata"):
        from litdata.streaming.writer import BinaryWriter  # optional package

        lit = BinaryWriter(str(folder / "lit"), chunk_bytes=size)
        for number, image in enumerate(images):
            lit[number] = {"image": image, "caption": CAPTION.format(number)}
        lit.done()
        lit.merge()
    for part in ("local", "mds", "lit"):
        if (folder / part).is_dir():
            servers.upload(folder / part, f"s3://{BUCKET}/{part}")
    return sorted(path.name for path in (folder / "local").glob("*.tar"))


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__, "benchmarks/object_store")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=int, default=1600)
    parser.add_argument("--per-shard", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    if args.form:
        run_form(args.form)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    server = context.Process(target=serve, args=(queue, LATENCY), daemon=True)
    server.start()
    with servers.s3_environment(queue.get()), tempfile.TemporaryDirectory(prefix="object-store-") as scratch:
        os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]  # mosaicml-streaming's own variable
        names = write_corpora(Path(scratch), args.pictures, args.per_shard)
        forms = [(LOCAL, [f"{scratch}/local"]), (STORE, [f"s3://{BUCKET}/local"]), ("webdataset", names)]
        forms += [
            (name, []) for name, module in (("mosaicml-streaming", "streaming"), ("litdata", "litdata")) if find_spec(module)
        ]
        batches = args.pictures // BATCH
        turns: list[dict[str, dict[str, float]]] = []
        for turn in range(args.turns):
            turns.append({form[0]: in_process(form, batches, args.epochs) for form in forms})
            print(turn, turns[-1], flush=True)
            write(args, turns, batches)
    server.kill()


def write(args: argparse.Namespace, turns: list[dict[str, dict[str, float]]], batches: int) -> None:
    """Writes the record."""
    rows = [row(name, turns, batches * BATCH, args.epochs) for name in turns[0]]
    notes = [
        f"{args.pictures} JPEGs of 640 x 480 in shards of {args.per_shard}, {LATENCY * 1000:.0f} ms before each answer, "
        f"{WORKERS} loader processes, batches of {BATCH}, {args.epochs} epochs, medians of {len(turns)} turns.",
        "The first epoch begins with an empty cache and includes the start of processes and clients. webdataset keeps no cache.",
        "Server, proxy and loaders share the cores of this machine. CPU seconds are those of the loaders alone, with their",
        "start; other work on the machine, whose load is above, disturbs them least. Those of the later epochs have no start.",
    ]
    packages = ["torch", "numpy", "webdataset", "s3fs", "moto"]
    packages += [name for name, module in (("mosaicml-streaming", "streaming"), ("litdata", "litdata")) if find_spec(module)]
    write_record(args.out, "Training loader over an object store", notes, rows, packages, {"turns": turns})


def row(name: str, turns: list[dict[str, dict[str, float]]], pictures: int, epochs: int) -> dict[str, str]:
    """Returns the medians of one form, and how many times its rate the store's is."""

    def middle(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(value(turn[name]) for turn in turns)

    def ratio(value: Callable[[dict[str, float]], float]) -> str:
        return f"{statistics.median(value(turn[name]) / value(turn[STORE]) for turn in turns):.2f}"

    def cold(times: dict[str, float]) -> float:
        return times["cold"]

    def cpu(times: dict[str, float]) -> float:
        return times["cpu"]

    def steady(times: dict[str, float]) -> float:
        return times["steady"]

    def warm(times: dict[str, float]) -> float:
        return times["warm"]

    return {
        "form": name,
        "first batch, s": f"{middle(lambda times: times['first batch']):.1f}",
        "first epoch, images/s": f"{pictures / middle(cold):.0f}",
        "later epochs, images/s": f"{(epochs - 1) * pictures / middle(warm):.0f}",
        "all epochs, images/s": f"{epochs * pictures / middle(_whole):.0f}",
        "S3 server / this, first epoch": ratio(cold),
        "S3 server / this, later epochs": ratio(warm),
        "S3 server / this, all": ratio(_whole),
        "CPU ms per image, later epochs": f"{1000 * middle(steady) / (epochs - 1) / pictures:.2f}",
        "this / S3 server, CPU of later epochs": ratio(steady),
        "CPU seconds of all processes": f"{middle(cpu):.1f}",
        "this / S3 server, CPU": ratio(cpu),
    }


def _whole(times: dict[str, float]) -> float:
    return times["cold"] + times["warm"]


if __name__ == "__main__":
    main()
