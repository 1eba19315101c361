"""Compares a trained model's exported programs with the model itself: differences, time, and a retrieval with each.

    python -m benchmarks.convert_export MODEL --out benchmarks/convert_export

MODEL is any source of `albef_ds.load`, such as a run of `albef-ds demo`. The retrieval is from captions to images over the
emoji corpus's held-out concepts; the matcher ranks the nearest images of each caption.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.cli.demo.command import cache_folder
from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.inference.export.programs import export, run_onnx
from albef_ds.inference.model import AlbefModel
from albef_ds.metrics.ranking import DirectionScores, Ranking, recall
from benchmarks.record import record_parser, write_record

RANKINGS: tuple[Ranking, ...] = ("itc", "itm", "itm_itc")
SHORTLIST = 8


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `call` and its seconds."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def main() -> None:
    """Exports, retrieves with both, and writes the record."""
    parser = record_parser(__doc__, "benchmarks/convert_export")
    parser.add_argument("model")
    options = parser.parse_args()
    whole = read_model(options.model).model.select("student", queues=False)
    model = AlbefModel(whole, device=torch.device("cpu"), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        differences, export_seconds = timed(lambda: export(whole, folder, ["onnx"]))
        data = RetrievalSet(
            emoji_corpus(cache_folder()) / "test", model.config.evaluation_data, model.config.model.vision.image_size
        )
        images, [(ids, mask)] = data.images(range(data.num_images)), list(data.text_batches(10_000))
        (feat, embeds), onnx_images = timed(lambda: run_onnx(folder / "image.onnx", {"images": images}))
        tokens = {"token_ids": ids, "token_mask": mask}
        (text_feat, text_embeds), onnx_texts = timed(lambda: run_onnx(folder / "text.onnx", tokens))
        ours_images, torch_images = timed(lambda: model.encode_image(images, batch_size=len(images)))
        ours_texts, torch_texts = timed(lambda: model.encode_text(data.captions, batch_size=len(data.captions)))
        shortlist = (ours_texts @ ours_images.T).topk(SHORTLIST, dim=1).indices
        rows = torch.arange(len(shortlist)).repeat_interleave(SHORTLIST)
        chosen = shortlist.flatten()
        inputs = {"image_embeds": embeds[chosen], "text_embeds": text_embeds[rows], "token_mask": mask[rows]}
        [matched], onnx_match = timed(lambda: run_onnx(folder / "match.onnx", inputs))
        texts = [data.captions[row] for row in rows.tolist()]
        ours_match, torch_match = timed(lambda: model.match(images[chosen], texts, batch_size=256))

    def scores(images: Tensor, texts: Tensor, match: Tensor) -> DirectionScores:
        margins = torch.logit(match.clamp(1e-7, 1 - 1e-7)).view(-1, SHORTLIST)
        return DirectionScores(texts @ images.T, data.caption_image, torch.arange(len(images)), 0.07, shortlist, margins)

    theirs, ours = scores(feat, text_feat, matched), scores(ours_images, ours_texts, ours_match)
    table = []
    for ranking in RANKINGS:
        left, right = theirs.ranks(ranking), ours.ranks(ranking)
        row = {"ranking": ranking, "captions": len(left), "same rank": int((left == right).sum())}
        both = (("ONNX", left), ("torch", right))
        table.append(row | {f"R@{k} {name}": round(recall(ranks, k), 2) for k in (1, 10) for name, ranks in both})
    facts = {
        "largest_difference": {name: f"{value:.1e}" for name, value in differences.items()},
        "seconds_onnx": {"image": round(onnx_images, 2), "text": round(onnx_texts, 2), "match": round(onnx_match, 2)},
        "seconds_torch": {"image": round(torch_images, 2), "text": round(torch_texts, 2), "match": round(torch_match, 2)},
    }
    notes = [
        f"{whole.parameters:,} parameters, exported in {export_seconds:.0f} s. Largest difference on random inputs: "
        + ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        + ".",
        f"Seconds for {len(images)} images, {len(texts) // SHORTLIST} texts, {len(texts)} pairs: ONNX {onnx_images:.1f}, "
        f"{onnx_texts:.1f}, {onnx_match:.1f}; torch {torch_images:.1f}, {torch_texts:.1f}, {torch_match:.1f} (including loading "
        "the program; the torch matcher encodes its images and texts again).",
        f"Ranks of the right image for each caption, where the matcher scores the nearest {SHORTLIST} images:",
    ]
    sys.argv[1:] = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # no path of this machine
    write_record(options.out, "Retrieval with exported programs", notes, table, ["torch", "onnx", "onnxruntime"], facts)


if __name__ == "__main__":
    main()
