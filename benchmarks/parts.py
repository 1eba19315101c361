"""FLOPs, time and rate of each part of a step of the base model.

    python -m benchmarks.parts --out benchmarks/parts

Measures the form with the exact savings. FLOPs come from the formula (`albef_ds/launch/planning/flops.py`); the rate is compared
with that of a matrix product. Forward and backward passes are timed separately, with leaf tensors as inputs of each part, so
that nothing else is computed. The optimizer and the momentum average do little arithmetic: their rate is in bytes per second.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from albef_ds.config.schema import ComputeConfig, RunConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.engine.local import LocalEngine
from albef_ds.launch.planning.flops import step_flops
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.tasks.pretrain import PretrainTask
from benchmarks.rates import finish, rate_of_products
from benchmarks.record import record_parser, write_record
from benchmarks.step import Variant, base_config, batch_of, build

_ADAMW_BYTES, _AVERAGE_BYTES = 28, 12
"""Bytes per fp32 parameter: weight and two moments read and written, gradient read; student read, copy read and written."""


@dataclass(frozen=True)
class Part:
    """One part of the model: its computation with gradients, and that of the momentum model."""

    name: str
    student: Callable[[], list[Tensor]]
    """Returns the outputs from which the backward pass starts."""
    momentum: Callable[[], Any] | None = None
    """None: included in `student`."""


def leaf(tensor: Tensor) -> Tensor:
    """A copy of `tensor` as a leaf that requires a gradient."""
    return tensor.detach().clone().requires_grad_()


def parts_of(task: PretrainTask, batch: ImageTextBatch, masked: int) -> list[Part]:
    """The five parts of `step_flops`, in its order, with `masked` words to predict in every caption."""
    albef, momentum = task.model, task.momentum.modules["albef"]
    assert isinstance(momentum, ALBEF)
    size, mask = len(batch), batch.token_mask
    ids, masks = torch.cat([batch.token_ids, batch.masked_ids]), mask.repeat(2, 1)
    with torch.no_grad():
        image_embeds, (clean, changed) = albef.encode_image(batch.images), albef.encode_text(ids, masks).chunk(2)
        image_feat, text_feat = albef.project_image(image_embeds), albef.project_text(clean, mask)
    positions = torch.arange(1, 1 + masked, device=mask.device).expand(size, -1)
    others = torch.arange(size, device=mask.device).roll(1)
    hidden, labels = clean.detach()[:, 1 : 1 + masked].flatten(0, 1), batch.token_ids[:, 1 : 1 + masked].flatten()
    candidates = task.gather_candidates(batch, image_feat, text_feat)
    task.after_skipped_step()
    with torch.no_grad():
        momentum_logits = task.momentum.modules["mlm_head"](hidden)

    def visual(model: ALBEF) -> list[Tensor]:
        tokens = model.encode_image(batch.images)
        return [tokens, model.project_image(tokens)]

    def text(model: ALBEF) -> list[Tensor]:
        tokens = model.encode_text(ids, masks)
        return [tokens, model.project_text(tokens[:size], mask)]

    def multimodal() -> list[Tensor]:
        images, positive, negatives = task.matching_passes(batch, leaf(image_embeds), leaf(clean), others, others)
        words = FusionPass(leaf(changed), mask, positive.image_index, positions)
        on_positive, on_negative, on_words = albef.fuse(images, [positive, negatives, words])
        return [task.matching_loss(on_positive, on_negative)[0], on_words]

    def words() -> list[Tensor]:
        return [distilled_cross_entropy(task.mlm_head(leaf(hidden)), labels, momentum_logits, 0.4).sum()]

    def contrast() -> list[Tensor]:
        return [task.contrast(batch, leaf(image_feat), leaf(text_feat), candidates, 0.4)[0]]

    masked_pass = FusionPass(changed, mask, positions=positions)
    return [
        Part("visual encoder", lambda: visual(albef), lambda: visual(momentum)),
        Part("text encoder", lambda: text(albef), lambda: text(momentum)),
        Part("multimodal encoder", multimodal, lambda: momentum.fuse(image_embeds, [masked_pass])),
        Part("MLM head", words, lambda: task.momentum.modules["mlm_head"](hidden)),
        Part("ITC with the queue", contrast),
    ]


class Clock:
    """Seconds of each turn, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Times the block."""
        finish(self.device)
        start = time.perf_counter()
        yield
        finish(self.device)
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)

    def of(self, name: str) -> float:
        """Median seconds without the first turn, which is a warm-up."""
        turns = self.seconds[name]
        return statistics.median(turns[1:] or turns)


def measure(engine: LocalEngine, parts: list[Part], clock: Clock, turns: int) -> None:
    """Times every part, the optimizer and the momentum average in turn."""
    task = engine.task
    for _ in range(turns + 1):
        for part in parts:
            with torch.autocast(clock.device.type, torch.bfloat16, enabled=clock.device.type == "cuda"):
                with clock.time(f"{part.name}, forward"):
                    outputs = part.student()
                if part.momentum is not None:
                    with torch.no_grad(), clock.time(f"{part.name}, momentum forward"):
                        part.momentum()
            with clock.time(f"{part.name}, backward"):
                torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        with clock.time("AdamW"):
            engine.optimizer.step()
        with clock.time("momentum average"):
            task.momentum.update()
        task.zero_grad()


def rows_of(config: RunConfig, engine: LocalEngine, parts: list[Part], clock: Clock, masked: int, ceiling: float) -> list[Any]:
    """One row per part and pass, with its share of the total time."""
    found: list[tuple[str, str, str]] = []
    for part, flops in zip(parts, step_flops(config, masked=masked), strict=True):
        assert part.name == flops.name
        passes = {"forward": flops.forward, "backward": flops.backward, "momentum forward": flops.momentum}
        if part.momentum is None:
            passes["forward"] += passes.pop("momentum forward")
        for kind, count in passes.items():
            name = f"{part.name}, {kind}"
            rate = count / clock.of(name)
            found.append((name, f"{count / 1e9:.1f}", f"{rate / 1e9:.0f} GFLOP/s, {rate / ceiling:.0%} of a product's"))
    learned = sum(parameter.numel() for group in engine.optimizer.param_groups for parameter in group["params"])
    copied = sum(parameter.numel() for parameter in engine.task.momentum.modules.parameters())
    for name, size in (("AdamW", _ADAMW_BYTES * learned), ("momentum average", _AVERAGE_BYTES * copied)):
        found.append((name, "", f"{size / clock.of(name) / 1e9:.1f} GB/s"))
    everything = sum(clock.of(name) for name in clock.seconds)
    return [
        {"part": name, "GFLOP": count, "s": f"{clock.of(name):.3f}", "of all": f"{clock.of(name) / everything:.1%}", "rate": rate}
        for name, count, rate in found
    ]


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="samples per step (%(default)s)")
    parser.add_argument("--tokens", type=int, default=30, help="caption length (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="timed turns after one that warms up (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    config = base_config(arguments.batch, arguments.tokens)
    engine = build(config, Variant("", ComputeConfig(), device.type == "cuda"), device, None)
    assert isinstance(engine.task, PretrainTask)
    masked = max(1, round(config.data.mlm_probability * (arguments.tokens - 1)))
    parts = parts_of(engine.task, batch_of(config, "full").to(device), masked)
    ceiling = rate_of_products(device, *(torch.bfloat16, 8192) if device.type == "cuda" else (torch.float32, 1024))
    clock = Clock(device)
    measure(engine, parts, clock, arguments.repetitions)
    rows = rows_of(config, engine, parts, clock, masked, ceiling)
    total = sum(clock.of(name) for name in clock.seconds)
    notes = [
        f"Base model, batch {arguments.batch}, {arguments.tokens} tokens, {masked} masked, queue 65,536, "
        f"{'bf16 autocast' if device.type == 'cuda' else 'fp32'}, {arguments.threads} thread(s); medians of "
        f"{arguments.repetitions} turns, {total:.2f} s in total. A matrix product reaches {ceiling / 1e9:.0f} GFLOP/s. The",
        "momentum model's similarities with the queue are part of ITC's forward pass. Bytes per parameter: AdamW 28, momentum",
        "average 12.",
    ]
    write_record(arguments.out, "Parts of one step of the base model", notes, rows, ["torch"], {"seconds": total})


if __name__ == "__main__":
    main()
