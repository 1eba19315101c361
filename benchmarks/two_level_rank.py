"""One rank of `benchmarks.two_level_network`: builds engines and takes steps as standard input asks, one JSON list per line.

It is run as a file, with the tree to measure on PYTHONPATH, so that two versions of the code take the same steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from albef_ds.config.schema import (
    DataConfig,
    EngineConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)

MICRO_BATCH = 2
SCHEDULE = {"alpha": 0.4}


def configuration(world_size: int, engine: dict[str, Any]) -> RunConfig:
    """Returns a run of ALBEF base's depth in small widths: 1.4M parameters in as many units and messages as the real one.

    `engine` are engine settings; one that this version of the code does not have is left out.
    """
    known = {field.name for field in fields(EngineConfig)}
    return RunConfig(
        model=ModelConfig(
            vision=VisionConfig(image_size=32, patch_size=16, width=64, depth=12, num_heads=2),
            text=TextConfig(
                vocab_size=1000,
                width=64,
                num_layers=6,
                num_fusion_layers=6,
                num_heads=2,
                intermediate_width=256,
                max_positions=32,
                dropout=0.0,
            ),
            embed_dim=32,
        ),
        task=PretrainConfig(queue_size=64),
        data=DataConfig(max_tokens=12),
        optim=OptimConfig(name="torch"),
        engine=EngineConfig(
            kind="zero", device="cpu", precision="fp32", **{name: value for name, value in engine.items() if name in known}
        ),
        train=TrainConfig(micro_batch_size=MICRO_BATCH, global_batch_size=MICRO_BATCH * world_size),
    )


class Rank:
    """The engine of this process, and the answers to what it is asked."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.task: Any = None
        self.batches: list[Any] = []

    def build(self, engine: dict[str, Any]) -> dict[str, Any]:
        """Makes a new engine. The first one joins the process group."""
        from tests.engine.zero.common import make  # start-up: it imports DeepSpeed, which reads the environment

        self.engine = self.task = None
        config = configuration(int(os.environ["WORLD_SIZE"]), engine)
        self.task, self.engine = make(config)
        self.batches = [_batch(config)]
        return {}

    def steps(self, count: int) -> dict[str, Any]:
        """Takes steps. Returns the seconds of one, the bytes that the node sent in one, and the losses of the last."""
        dist.barrier()
        sent, start = _sent_bytes(), time.perf_counter()
        for _ in range(count):
            result = self.engine.train_step(self.batches, SCHEDULE, 1e-4)
        seconds = (time.perf_counter() - start) / count
        dist.barrier()
        return {"seconds": seconds, "sent": (_sent_bytes() - sent) / count, "losses": dict(result.losses)}

    def reach(self) -> dict[str, Any]:
        """Returns the bytes per second that a node sends in an all-reduce and an all-gather of 4 MB, the best of five."""
        whole, ranks = torch.zeros(1_000_000), dist.get_world_size()
        whole = whole[: len(whole) // ranks * ranks]
        best = float("inf")
        for _ in range(5):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(whole)
            dist.all_gather_into_tensor(whole, whole.new_zeros(len(whole) // ranks))
            best = min(best, time.perf_counter() - start)
        return {"rate": 3 * whole.nbytes * (ranks - 1) / ranks / best}

    def momentum(self) -> dict[str, Any]:
        """Returns the bytes that the node sends in a momentum model's forward pass over one micro-batch, the least of three."""
        [batch] = self.batches
        self._momentum_forward(batch)
        found = []
        for _ in range(3):  # torch's store speaks now and then
            dist.barrier()
            time.sleep(0.3)  # the barrier's last frames leave
            sent = _sent_bytes()
            self._momentum_forward(batch)
            time.sleep(0.3)
            found.append(_sent_bytes() - sent)
        dist.barrier()
        return {"sent": min(found)}

    def _momentum_forward(self, batch: Any) -> None:
        with torch.no_grad():
            modules = self.task.momentum.modules
            images = modules["albef"].encode_image(batch.images)
            texts = modules["albef"].encode_text(batch.token_ids, batch.token_mask)
            modules["albef"].project_image(images)
            modules["albef"].project_text(texts, batch.token_mask)


def _batch(config: RunConfig) -> Any:
    """Returns this rank's pairs, the same in every version."""
    from albef_ds.data import mock  # start-up: see `Rank.build`

    pairs = mock.pairs(config)
    generator = torch.Generator().manual_seed(dist.get_rank())
    images: Tensor = torch.randn(pairs.images.shape, generator=generator)
    rows = torch.arange(len(pairs)) + dist.get_rank() * len(pairs)
    return replace(pairs, images=images, image_ids=rows, caption_ids=rows, positions=rows)


def _sent_bytes() -> int:
    """Returns the bytes that this node has sent to others."""
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("eth0:"))
    return int(line.split(":")[1].split()[8])


def main() -> None:
    """Answers until the input ends. Whatever libraries print goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    rank = Rank()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = getattr(rank, name)(*arguments)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
