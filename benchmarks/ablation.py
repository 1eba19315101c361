"""The paper's ablation in small (Table 1): what each part of pretraining adds, on scenes with noisy captions.

    python -m benchmarks.ablation --steps 4000 --seeds 3

Five variants, each adding one part: MLM + ITM; + ITC; + hard negatives for ITM; + momentum distillation in pretraining; + in
fine-tuning. Each is pretrained and fine-tuned on retrieval with every seed, in this process with the plain engine. A
pretraining that leaves ITM at its base rate of 2/3, or MLM at the entropy of single words, says nothing about the
parts: both are in the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef_ds.data.shards import ShardReader
from albef_ds.scenes.corpus import Counts, SceneSettings, write_scenes
from albef_ds.scoring import Request, score
from benchmarks.training import train

NOISE = 0.3
ITM_BASE_RATE = 2 / 3
_TAIL = 10  # log lines that the end of pretraining is averaged over


@dataclass(frozen=True)
class Variant:
    """One row of the table: settings of pretraining and of fine-tuning."""

    name: str
    pretrain: tuple[str, ...]
    finetune: tuple[str, ...]


_PLAIN, _DISTILLED = ("task.alpha=0",), ("task.alpha=0.4",)
_EASY, _HARD = ("task.itm_random_negatives=1",), ("task.itm_random_negatives=0.5",)
VARIANTS = (
    Variant("MLM + ITM", (*_PLAIN, *_EASY, "task.itc_weight=0"), _PLAIN),
    Variant("+ ITC", (*_PLAIN, *_EASY), _PLAIN),
    Variant("+ hard negatives", (*_PLAIN, *_HARD), _PLAIN),
    Variant("+ momentum distillation in pretraining", (*_DISTILLED, *_HARD), _PLAIN),
    Variant("+ momentum distillation in fine-tuning", (*_DISTILLED, *_HARD), _DISTILLED),
)
"""In the order of the paper's Table 1, whose figures rise from row to row."""


def last_values(run: Path, name: str) -> float:
    """Mean of the last logged values of `name`."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [line[name] for line in lines if name in line]
    return statistics.fmean(values[-_TAIL:])


def word_entropy(shards: Path) -> float:
    """Nats per word of a guess from word frequencies alone: what MLM costs a model that reads nothing."""
    reader = ShardReader(shards)
    words: Counter[str] = Counter()
    for row in range(min(2000, reader.counts[0])):
        for caption in json.loads(reader.read_meta(0, row))["captions"]:
            words.update(caption.split())
    total = sum(words.values())
    return -sum(count / total * math.log(count / total) for count in words.values())


def measure(variant: Variant, number: int, seed: int, runs: Path, scenes: Path, steps: int) -> dict[str, float]:
    """Pretrain and fine-tune one variant with one seed; what came out."""
    common = [f"data.vocab_file={scenes}/vocab.txt", f"train.seed={seed}", "train.epochs=1000"]
    first = VARIANTS[3] if number == 4 else variant  # the last row differs from the one before in fine-tuning alone
    pretrained = train(
        "scenes_pretrain",
        runs / f"pretrain-{VARIANTS.index(first)}-{seed}",
        [*common, f"data.shards={scenes}/pretrain/train", f"train.max_steps={steps}", *first.pretrain],
    )
    files = [
        f"data.annotations={scenes}/retrieval_train.json",
        f"data.eval_annotations={scenes}/retrieval_val.json",
        f"data.test_annotations=hard={scenes}/retrieval_test.json,unseen={scenes}/retrieval_unseen.json",
        f"data.image_root={scenes}/images",
        f"init.checkpoint={pretrained}",
    ]
    length = [f"train.max_steps={max(1, steps // 4)}"]
    tuned = train("scenes_retrieval", runs / f"retrieval-{number}-{seed}", [*common, *files, *length, *variant.finetune])
    splits = score(Request(tuned), tuned, torch.device("cpu"), lambda line: None)["splits"]
    return {
        "ITM accuracy": 100 * last_values(pretrained, "itm_accuracy"),
        "MLM loss": last_values(pretrained, "loss_mlm"),
        **{
            f"{split} {direction} R@1": splits[split][f"retrieval/{metric}_r1_itm"]
            for split in ("hard", "unseen")
            for direction, metric in (("text", "i2t"), ("image", "t2i"))
        },
    }


def table(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """One row per variant: mean and standard deviation over the seeds."""
    rows = []
    for name, values in found.items():
        row: dict[str, Any] = {"variant": name}
        for metric in values[0]:
            numbers = [value[metric] for value in values]
            spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            row[metric] = f"{statistics.fmean(numbers):.2f} ± {spread:.2f}"
        rows.append(row)
    return rows


def main() -> None:
    """Run all variants; `--record` writes the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=4000, help="of pretraining; fine-tuning takes a quarter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how many scenes are made, 1 being the usual")
    parser.add_argument("--record", action="store_true", help="write benchmarks/ablation.json and .md")
    arguments = parser.parse_args()
    scenes = arguments.runs / "scenes"
    write_scenes(scenes, SceneSettings(side=32, grouped=0.25, caption_noise=NOISE, counts=Counts().scaled(arguments.scale)))
    found: dict[str, list[dict[str, float]]] = {}
    for number, variant in enumerate(VARIANTS):
        for seed in range(arguments.seeds):
            found.setdefault(variant.name, []).append(measure(variant, number, seed, arguments.runs, scenes, arguments.steps))
            print(variant.name, seed, found[variant.name][-1], flush=True)
    rows = table(found)
    entropy = word_entropy(scenes / "pretrain" / "train")
    if arguments.record:
        from benchmarks.record import write_record

        notes = [
            f"Scenes with {NOISE:.0%} of the captions from another scene; {arguments.steps} steps of 64 and a quarter of them in",
            f"fine-tuning; {arguments.seeds} seeds, mean and standard deviation. ITM's base rate is {100 * ITM_BASE_RATE:.1f},",
            f"the entropy of single words {entropy:.2f} nats: a row at these has learned nothing there. In the paper's Table 1",
            "the figures rise from row to row.",
        ]
        facts = {"steps": arguments.steps, "seeds": arguments.seeds, "scale": arguments.scale, "values": found}
        write_record(Path(__file__).with_name("ablation"), "Ablation on scenes", notes, rows, ["torch"], facts)


if __name__ == "__main__":
    main()
