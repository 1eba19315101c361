"""CPU time of the retrieval evaluation beside an earlier build and the released code's cost structure, in one run.

    git worktree add OTHER COMMIT
    python -m benchmarks.evaluation --beside OTHER --out benchmarks/evaluation

Random weights, random images and captions of 4 to 25 tokens (12.6 on average, as Flickr30K's). The forms take turns, each in a
fresh process with one thread: this checkout, the checkout OTHER, and the released code's way: all captions padded to the longest,
an image's tokens repeated for each of its candidates, both directions one after the other. The scores must agree.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.config.schema import ComputeConfig, ModelConfig, TextConfig, VisionConfig
from albef_ds.metrics.retrieval import RetrievalEvaluator
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from benchmarks.record import record_parser, write_record

HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """Sizes of one evaluation."""

    model: str
    num_images: int
    captions_each: int
    k_test: int


CASES = {
    "192": Case("width 192", 250, 5, 32),
    "base": Case("base", 4, 60, 4),
    "base-wide": Case("base", 24, 5, 16),
    "small": Case("width 192", 30, 5, 6),
}


def model_of(name: str) -> ModelConfig:
    """The base model at 256 pixels, or one of width 192 at 96 pixels."""
    if name == "base":
        return ModelConfig(vision=VisionConfig(image_size=256), text=TextConfig(dropout=0.0))
    text = TextConfig(width=192, num_layers=3, num_fusion_layers=3, num_heads=3, intermediate_width=768, dropout=0.0)
    return ModelConfig(vision=VisionConfig(image_size=96, patch_size=8, width=192, depth=6, num_heads=3), text=text)


class Made:
    """Random images and captions, the same for one `Case`."""

    def __init__(self, case: Case, side: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.num_images = case.num_images
        self.pixels = torch.randn(case.num_images, 3, side, side, generator=generator)
        self.caption_image = torch.arange(case.num_images).repeat_interleave(case.captions_each)
        drawn = torch.empty(len(self.caption_image)).exponential_(generator=generator)
        lengths = (4.0 + 8.6 * drawn).round().clamp(max=25).long()
        lengths[0] = 25
        ids = torch.randint(1000, 30000, (len(lengths), 25), generator=generator)
        self.mask = torch.arange(25) < lengths[:, None]
        self.ids = ids * self.mask

    def images(self, rows: Sequence[int]) -> Tensor:
        """Float32 (len(rows), 3, S, S)."""
        return self.pixels[list(rows)]

    def text_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and masks of all captions."""
        yield from zip(self.ids.split(batch_size), self.mask.split(batch_size), strict=True)


def built(config: ModelConfig, compute: ComputeConfig) -> tuple[ALBEF, nn.Linear]:
    """A model with random weights in eval mode."""
    torch.manual_seed(0)
    albef, head = ALBEF(config, compute), nn.Linear(config.text.width, 2)
    for module in (albef, head):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.08)
    return albef.eval(), head


@torch.no_grad()
def released(albef: ALBEF, head: nn.Module, data: Made, k: int) -> Tensor:
    """Margins (N, T) of the shortlists of both directions, 0 elsewhere, computed as in the released code's evaluation."""
    texts = [(albef.encode_text(ids, mask), mask) for ids, mask in data.text_batches(64)]
    embeds, mask = (torch.cat(parts) for parts in zip(*texts, strict=True))
    images = torch.cat([albef.encode_image(part) for part in data.pixels.split(32)])
    similarity = albef.project_image(images) @ albef.project_text(embeds, mask).t()

    def judged(tokens: Tensor, rows: Tensor) -> Tensor:
        cls = torch.zeros(len(rows), 1, dtype=torch.int64)
        [hidden] = albef.fuse(tokens, [FusionPass(embeds[rows], mask[rows], (None,), cls)])
        logits = head(hidden[:, 0])
        return logits[:, 1] - logits[:, 0]

    margins, every = torch.zeros_like(similarity), torch.arange(len(mask))
    for image, row in enumerate(similarity):
        texts_of = row.topk(k).indices
        margins[image, texts_of] = judged(images[image : image + 1].expand(k, -1, -1), texts_of)
    for text, images_of in enumerate(similarity.t().topk(k).indices):
        margins[images_of, text] = judged(images[images_of], every[text].expand(k))
    return margins


def work(form: str, name: str, scores: Path) -> None:
    """Evaluates once and prints CPU seconds and peak memory; writes the margins to `scores`."""
    torch.set_num_threads(1)
    case = CASES[name]
    config = model_of(case.model)
    data = Made(case, config.vision.image_size)
    # The released code computes all positions of the last layer, and keys and values per pair.
    compute = ComputeConfig() if form != "released" else ComputeConfig(share_cross_kv=False, itm_cls_only=False)
    albef, head = built(config, compute)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if form == "released":
        margins = released(albef, head, data, case.k_test)
    else:
        found = RetrievalEvaluator(albef, head, data, torch.device("cpu"), case.k_test).score()
        margins = torch.zeros_like(found.i2t.similarity)
        for scores_of, place in ((found.i2t, margins), (found.t2i, margins.t())):
            assert scores_of.shortlist is not None and scores_of.margins is not None
            place.scatter_(1, scores_of.shortlist, scores_of.margins)
    seconds = time.process_time() - started
    torch.save(margins, scores)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(json.dumps({"s": seconds, "MB": peak}))


def turn(form: str, name: str, folder: Path, beside: Path) -> dict[str, float]:
    """One evaluation in a fresh process."""
    scores = folder / f"{form}.pt"
    command = [sys.executable, str(Path(__file__).resolve()), "--work", form, name, str(scores)]
    paths = os.pathsep.join([str(beside if form == "earlier" else HERE), str(HERE)])
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def measure(name: str, beside: Path, turns: int, folder: Path) -> dict[str, Any]:
    """One row of the record: medians over the turns."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(turns):
        for form in ("now", "earlier", "released"):
            found.setdefault(form, []).append(turn(form, name, folder, beside))
    seconds = {form: statistics.median(entry["s"] for entry in entries) for form, entries in found.items()}
    margins = {form: torch.load(folder / f"{form}.pt", weights_only=True) for form in found}
    apart = 0.0
    for form in ("earlier", "released"):
        both = (margins["now"] != 0) & (margins[form] != 0)  # nearly equal similarities may give other candidates
        apart = max(apart, float((margins["now"] - margins[form])[both].abs().max()))
    case = CASES[name]
    row: dict[str, Any] = {"model": case.model}
    row["images x captions, k"] = f"{case.num_images} x {case.captions_each}, {case.k_test}"
    row |= {f"{form}, CPU s": round(value, 2) for form, value in seconds.items()}
    for form in ("earlier", "released"):
        ratios = [other["s"] / own["s"] for own, other in zip(found["now"], found[form], strict=True)]
        row[f"{form} / now"] = round(statistics.median(ratios), 2)
    row |= {f"{form}, MB": round(max(entry["MB"] for entry in entries)) for form, entries in found.items()}
    return row | {"margins apart": f"{apart:.1e}", "their spread": f"{float(margins['now'][margins['now'] != 0].std()):.1e}"}


def main() -> None:
    """Measures the cases and writes the record."""
    if "--work" in sys.argv:
        _, _, form, name, scores = sys.argv
        return work(form, name, Path(scores))
    parser = record_parser(__doc__)
    parser.add_argument("--beside", type=Path, required=True, help="a checkout of the earlier build")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["192", "base", "base-wide"])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, options.beside.resolve(), options.turns, Path(folder)) for name in options.cases]
    asked = ["git", "-C", str(options.beside), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    notes = [
        f"One thread, a fresh process per evaluation, {options.turns} turns, medians. `earlier` is commit {commit},",
        "`released` has the released code's cost structure. MB is memory beyond the model and the images. `margins apart` is the",
        "largest difference of two margins of one pair.",
    ]
    write_record(options.out, "Retrieval evaluation", notes, rows, ["torch"], {"turns": options.turns})


if __name__ == "__main__":
    main()
