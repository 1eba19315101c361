"""A trained model's exported programs against the model itself: differences, time, and a whole retrieval with each.

    python -m benchmarks.convert_export MODEL --out benchmarks/convert_export

MODEL is whatever `albef_ds.load` takes; a run of `albef-ds demo` is meant. The retrieval is over the emoji corpus's held-out
concepts, captions asking, the matcher judging the nearest pictures of each.
"""

from __future__ import annotations

import argparse
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
from benchmarks.record import write_record

RANKINGS: tuple[Ranking, ...] = ("itc", "itm", "itm_itc")
SHORTLIST = 8


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the seconds it took."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def main() -> None:
    """Export, retrieve with both, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/convert_export"))
    options = parser.parse_args()
    whole = read_model(options.model).model.select("student", queues=False)
    model = AlbefModel(whole, device=torch.device("cpu"), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        differences, export_seconds = timed(lambda: export(whole, folder, ["onnx"]))
        data = RetrievalSet(emoji_corpus(cache_folder()) / "test", model.config.data, model.config.model.vision.image_size)
        images, [(ids, mask)] = data.images(range(data.num_images)), list(data.text_batches(10_000))
        (feat, embeds), onnx_images = timed(lambda: run_onnx(folder / "image.onnx", {"images": images}))
        (text_feat, text_embeds), onnx_texts = timed(
            lambda: run_onnx(folder / "text.onnx", {"token_ids": ids, "token_mask": mask})
        )
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
        table.append(
            {
                "ranking": ranking,
                "captions": len(left),
                "same rank": int((left == right).sum()),
                "R@1 ONNX": round(recall(left, 1), 2),
                "R@1 torch": round(recall(right, 1), 2),
                "R@10 ONNX": round(recall(left, 10), 2),
                "R@10 torch": round(recall(right, 10), 2),
            }
        )
    facts = {
        "largest_difference": {name: f"{value:.1e}" for name, value in differences.items()},
        "seconds_onnx": {"image": round(onnx_images, 2), "text": round(onnx_texts, 2), "match": round(onnx_match, 2)},
        "seconds_torch": {"image": round(torch_images, 2), "text": round(torch_texts, 2), "match": round(torch_match, 2)},
    }
    notes = [
        f"{whole.parameters:,} parameters, exported in {export_seconds:.0f} s. Largest difference on random inputs: "
        + ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        + ".",
        f"Seconds for {len(images)} pictures, {len(texts) // SHORTLIST} texts, {len(texts)} pairs: ONNX {onnx_images:.1f}, "
        f"{onnx_texts:.1f}, {onnx_match:.1f}; torch {torch_images:.1f}, {torch_texts:.1f}, {torch_match:.1f} (with loading "
        "the program; the torch matcher encodes its pictures and texts anew).",
        f"Ranks of the right picture, captions asking, the nearest {SHORTLIST} pictures judged by the matcher:",
    ]
    sys.argv[1:] = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # no path of this machine
    write_record(options.out, "Retrieval with exported programs", notes, table, ["torch", "onnx", "onnxruntime"], facts)


if __name__ == "__main__":
    main()
