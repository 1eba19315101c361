"""Kills training runs over a failing S3 server at random moments, and compares them with an undisturbed run over local shards.

    OMP_NUM_THREADS=1 python -m benchmarks.object_store_kills --out benchmarks/object_store_kills

Both runs train in three parts, on 1 rank, on 2 and on 1 again, under ZeRO-2. The one over moto's server is killed in every part
(SIGKILL to one rank or all, during start-up, between steps and while a checkpoint is written) and resumed with `--resume auto`,
while the server answers a share of the requests with 503, cuts bodies short, resets connections or is slow. Its cache holds about
half of the corpus and is kept through all kills. Samples are compared by position and key for every step of every attempt,
losses bit by bit.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from albef_ds.data.store.cache import NodeCache
from benchmarks.faults import GLOBAL_BATCH, TIME_LIMIT, compare, corpus
from benchmarks.record import record_parser, write_record
from tests import servers
from tests.faults import harness

PARTS = ((1, 1), (2, 2), (1, 3))
"""Ranks of each part, and its number."""
SHARE = 0.05
"""Share of the requests with each of the four faults."""


def serve(queue: Any, folder: str) -> None:
    """Runs the server with the corpus, and answers with its address; then counts faults for whoever asks."""
    with servers.s3_server() as faults:
        servers.upload(Path(folder), "s3://bucket/corpus")
        faults.unavailable = faults.cut = faults.reset = faults.slow = SHARE
        queue.put(os.environ["AWS_ENDPOINT_URL"])
        while True:
            time.sleep(1)
            queue.put(Counter(faults.seen))


def train(output: Path, line: list[str], steps: int, kills: int, chance: random.Random) -> list[harness.Kill]:
    """Trains in parts with `kills` kills over all of them; returns those that were done."""
    done: list[harness.Kill] = []
    for ranks, part in PARTS:
        own = [*line, f"train.max_steps={steps * part // len(PARTS)}", f"train.micro_batch_size={GLOBAL_BATCH // 2}"]
        while len(done) < kills * part // len(PARTS):
            kill = harness.disturb(harness.start(output, ranks, own), chance, steps * part // len(PARTS), TIME_LIMIT)
            if kill is None:
                break
            done.append(kill)
            print(f"  {kill}", flush=True)
        job = harness.start(output, ranks, own)
        codes = job.join(TIME_LIMIT)
        if codes != [0] * ranks:
            raise SystemExit(f"a run ended with {codes}:\n{job.errors()}")
    return done


class Watch:
    """Looks at the size of a cache a hundred times a second."""

    def __init__(self, cache: NodeCache) -> None:
        self.most, self._cache, self._stop = 0, cache, threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._cache.used())

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()


def main() -> None:
    """Writes the record."""
    parser = record_parser(__doc__, "benchmarks/object_store_kills")
    parser.add_argument("--kills", type=int, default=21)
    parser.add_argument("--steps", type=int, default=42)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="object-store-kills-"))
    local = corpus(work / "corpus")
    size = sum(path.stat().st_size for path in local.glob("*.tar"))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    server = context.Process(target=serve, args=(queue, str(local)), daemon=True)
    server.start()
    try:
        with servers.s3_environment(queue.get()):
            line = [*harness.SMALL, "train.save_every=2", "train.epochs=1000", "engine.stage=2"]
            train(work / "straight", [*line, f"data.shards={local}"], args.steps, 0, random.Random())
            bound = size // 2
            store = [f"data.cache={work / 'cache'}", f"data.cache_gb={bound / 1e9}", "data.shards=s3://bucket/corpus"]
            watch = Watch(NodeCache(work / "cache", "any", bound))
            kills = train(work / "killed", [*line, *store], args.steps, args.kills, random.Random(args.seed))
            watch.close()
        seen: Counter[str] = Counter()
        while not queue.empty():
            seen = queue.get()
        row = {"kills": len(kills), "changes of ranks": len(PARTS) - 1, "steps": args.steps}
        row |= compare(work / "killed", work / "straight", args.steps)
        row |= {"requests": sum(seen.values()), "with faults": sum(seen.values()) - seen[""], "bound of the cache, bytes": bound}
        row |= {"most that it held": watch.most}
        notes = [f"40 pairs in 4 shards of {size // 4} bytes. Faults: {dict(sorted(seen.items()))} ('' is none)."]
        write_record(args.out, "Kills over a failing object store", notes, [row], ["torch", "deepspeed", "s3fs", "moto"], {})
    finally:
        server.kill()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
