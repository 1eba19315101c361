"""Time and FLOPs of one optimizer step of the base model: the plain form against the exact savings, in fp32 and bf16.

    python -m benchmarks.step --out benchmarks/step
    python -m benchmarks.step --captions cc12m --out benchmarks/step_captions

The plain form computes as the released code: keys and values are projected again for every pass, vocabulary logits computed at
every position, last layers in full, passes one after another, AdamW and the momentum update tensor by tensor. All variants take
turns within one process, so that other work on the machine affects them equally. The losses show that the savings change only
rounding.

With `--captions cc12m`, captions vary in length as CC12M's (20.2 words on average with a deviation of 16.3, Changpinyo et al.
2021, here log-normal and cut at `--tokens`), and skipping padding (`compute.packed_text`) is measured, in fp32.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from albef_ds.common.device import multiplies_bf16
from albef_ds.config.schema import ComputeConfig, DataConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig, TrainConfig
from albef_ds.data import mock
from albef_ds.data.batch import ImageTextBatch
from albef_ds.engine.build import build_task
from albef_ds.engine.local import LocalEngine
from albef_ds.launch.planning.recorder import flop_counter
from albef_ds.models.compilation import compile_blocks
from albef_ds.models.momentum import DenseMomentum
from albef_ds.tasks.pretrain import PretrainTask
from benchmarks.momentum_update import ReleasedMomentum
from benchmarks.rates import rates_of_products
from benchmarks.record import record_parser, write_record

PLAIN = ComputeConfig(attention="plain", share_cross_kv=False, mlm_masked_only=False, itm_cls_only=False, one_fusion_call=False)
SCHEDULE = {"alpha": 0.4}
_PRODUCT = 1024
_MEAN, _DEVIATION = 20.2, 16.3
"""Number of words of a CC12M caption."""


@dataclass
class Variant:
    """A way to compute a step, with its engine and measurements."""

    name: str
    compute: ComputeConfig
    autocast: bool
    engine: LocalEngine | None = None
    gflop: float = 0.0
    loss: float = 0.0
    seconds: list[float] | None = None


def base_config(batch: int, tokens: int) -> RunConfig:
    """Pretraining of the base model with a full queue, without dropout, so that all forms compute the same numbers."""
    model = ModelConfig()
    return RunConfig(
        model=replace(model, text=replace(model.text, dropout=0.0)),
        task=PretrainConfig(mask_unfilled_queue=False),
        data=DataConfig(max_tokens=tokens),
        optim=OptimConfig(),
        train=TrainConfig(micro_batch_size=batch, global_batch_size=batch),
    )


def batch_of(config: RunConfig, captions: str) -> ImageTextBatch:
    """Random images and captions, of full length or as in CC12M, with 15% of the tokens masked."""
    torch.manual_seed(1)
    batch = mock.pairs(config)
    batch.images.normal_()
    words = config.model.text.vocab_size
    batch.token_ids[:, 1:] = torch.randint(min(1000, words // 2), words, batch.token_ids[:, 1:].shape)
    batch.mlm_labels.fill_(-100)
    full = config.text_length
    lengths = torch.full((len(batch),), full) if captions == "full" else caption_lengths(len(batch), full)
    batch.token_mask.copy_(torch.arange(full) < lengths[:, None])
    batch.token_ids[~batch.token_mask] = 0
    for row, length in enumerate(lengths.tolist()):
        last = 1 + max(1, round(config.data.mlm_probability * (length - 1)))
        batch.mlm_labels[row, 1:last] = batch.token_ids[row, 1:last]
    return batch


def caption_lengths(count: int, most: int) -> torch.Tensor:
    """Tokens of `count` captions with [CLS]: evenly spaced quantiles, so that a small batch covers the distribution."""
    spread = math.log(1 + (_DEVIATION / _MEAN) ** 2)
    quantiles = torch.special.ndtri((torch.arange(count) + 0.5) / count)
    words = torch.exp(math.log(_MEAN) - spread / 2 + math.sqrt(spread) * quantiles)
    return (1 + words.round().long()).clamp(4, most)


def build(config: RunConfig, variant: Variant, device: torch.device, first: LocalEngine | None) -> LocalEngine:
    """The engine of one form; variants after the `first` share its weights, momentum weights, queue and optimizer state."""
    task = build_task(replace(config, compute=variant.compute))
    assert isinstance(task, PretrainTask)
    plain = variant.compute is PLAIN
    task.attach_momentum((ReleasedMomentum if plain else DenseMomentum)(task.base, config.task.momentum))
    if first is not None:
        assert isinstance(first.task, PretrainTask)
        share_parameters(first.task, task)
        share_parameters(first.task.momentum.modules, task.momentum.modules)
        task.attach_queue(first.task.queue)
    engine = LocalEngine(task.train(), config.optim, device, autocast=variant.autocast)
    if plain:
        for group in engine.optimizer.param_groups:  # `capturable` keeps the step count where the fused form expects it
            group.update(fused=False, foreach=False, capturable=device.type == "cuda")
    if first is not None:
        engine.optimizer.state = first.optimizer.state
    return engine


def share_parameters(source: nn.Module, target: nn.Module) -> None:
    """Replaces the parameters of `target` by those of `source`, which have the same names."""
    for name, parameter in source.named_parameters(remove_duplicate=False):
        module, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(module), leaf, parameter)


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="samples per step (%(default)s)")
    parser.add_argument("--tokens", type=int, default=30, help="caption length (%(default)s)")
    parser.add_argument("--captions", choices=("full", "cc12m"), default="full", help="lengths of the captions (%(default)s)")
    parser.add_argument("--fp32-only", action="store_true", help="leave bf16 out, whose steps take long where it is emulated")
    parser.add_argument("--repetitions", type=int, default=3, help="timed steps per variant (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    config = base_config(args.batch, args.tokens)
    variants = [Variant("plain, fp32", PLAIN, False), Variant("exact savings, fp32", ComputeConfig(), False)]
    if args.captions == "full" and not args.fp32_only:
        variants.append(Variant("plain, bf16 autocast", PLAIN, True))
        variants.append(Variant("exact savings, bf16 autocast", ComputeConfig(), True))
    if args.captions == "full" and (device.type != "cpu" or shutil.which("g++")):
        variants.insert(2, Variant("exact savings, compiled, fp32", ComputeConfig(compile=True), False))
    if args.captions != "full":
        variants.append(Variant("exact savings without padding, fp32", ComputeConfig(packed_text=True), False))
    batch = batch_of(config, args.captions).to(device)
    for variant in variants:
        engine = variant.engine = build(config, variant, device, variants[0].engine)
        with flop_counter() as counter:
            result = engine.train_step([batch], SCHEDULE, 0.0)
        if variant.compute.compile:  # after counting, which cannot inspect compiled code
            compile_blocks(engine.task)
            result = engine.train_step([batch], SCHEDULE, 0.0)
        variant.gflop = counter.get_total_flops() / 1e9
        variant.loss = sum(result.losses.values())
        variant.seconds = []
        print(f"{variant.name}: {variant.gflop:.0f} GFLOP, loss {variant.loss:.6f}", flush=True)
    for turn in range(args.repetitions):
        for variant in variants:
            if variant.autocast and turn and not multiplies_bf16(device):
                continue  # emulated: a minute per step
            assert variant.engine is not None and variant.seconds is not None
            start = time.perf_counter()
            variant.engine.train_step([batch], SCHEDULE, 0.0)  # ends by reading the losses, so the device is done
            variant.seconds.append(time.perf_counter() - start)
    base = variants[0].seconds or []
    rows = [
        {
            "variant": v.name,
            "GFLOP": round(v.gflop),
            "FLOPs, plain / this": round(variants[0].gflop / v.gflop, 3),
            "s per step, median": round(statistics.median(v.seconds or [0.0]), 2),
            "least": round(min(v.seconds or [0.0]), 2),
            # Ratios within one turn, so that a temporary slowdown affects both.
            "time, plain fp32 / this": round(statistics.median(a / b for a, b in zip(base, v.seconds or [], strict=False)), 2),
            "loss": round(v.loss, 6),
        }
        for v in variants
    ]
    notes = [
        f"Base model (ViT-B/16, {config.model.vision.image_size} px; 6 + 6 layers), batch {args.batch}, {args.tokens} tokens,"
        f" queue {config.task.queue_size} full, alpha 0.4, AdamW and the momentum update included; {args.threads} thread(s), "
        f"{args.repetitions} timed steps per variant in turn (one where bf16 is emulated); ratios are medians over the turns. "
        "Multiply-adds count as 2 FLOPs; element-wise work is not counted.",
    ]
    if any(variant.autocast for variant in variants):
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        found = rates_of_products(device, list(kinds.values()), _PRODUCT, times=40)
        rates = {name: rate / 1e9 for name, rate in zip(kinds, found, strict=True)}
        notes.append(
            f"A matrix product of {_PRODUCT:,}: "
            + ", ".join(f"{name} {rate:.3g} GFLOP/s ({rate / rates['fp32']:.2g} x fp32)" for name, rate in rates.items())
            + ". If bf16 is not above 1, autocast is slower, and `engine.precision=auto` selects fp32."
        )
    if args.captions != "full":
        share = batch.token_mask.double().mean().item()
        notes.append(f"Captions as long as CC12M's, cut at {args.tokens}: {share:.0%} of the text tokens are not padding.")
    write_record(args.out, "One step of the base model", notes, rows, ["torch"], {"threads": args.threads})


if __name__ == "__main__":
    main()
