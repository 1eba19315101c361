"""Recall of trained models by both scores of ITM: the margin of the two logits, and the logit of "match" as in the released code.

    python -m benchmarks.itm_score --corpus RUN=FOLDER --annotations RUN=FILE ... --out benchmarks/itm_score

FOLDER is a split of a corpus, FILE a retrieval list of a run whose settings name its images.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint.formats.read import build_for_inference, read_model
from albef_ds.config.recipes import RECIPES
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.read import read_pairs
from albef_ds.data.evaluation_sets.annotated import PairSet
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.metrics.ranking import DirectionScores, recall
from albef_ds.metrics.retrieval import RetrievalEvaluator, RetrievalScores
from albef_ds.tasks.contrastive import ContrastiveTask
from benchmarks.record import record_parser, write_record

K_TEST = 32


def scored(run: Path, data: PairSet | RetrievalSet, config: RunConfig) -> RetrievalScores:
    """Both directions of the run's newest checkpoint, with both scores."""
    device = torch.device("cpu")
    task = build_for_inference(read_model(run).model.select("student", queues=False), device, torch.float32)
    assert isinstance(task, ContrastiveTask), "the run must retrieve"
    temperature = float(task.temperature)
    evaluator = RetrievalEvaluator(task.model, task.itm_head, data, device, K_TEST, temperature=temperature, itm_score="match")
    return evaluator.score()


def rows(name: str, scores: RetrievalScores) -> list[dict[str, Any]]:
    """A row per direction: recall by both, and the share of queries whose first answer differs."""
    found = []
    for title, direction in (("image to text", scores.i2t), ("text to image", scores.t2i)):
        forms: dict[str, DirectionScores] = {"margin": replace(direction, match=None), "match": direction}
        first = {form: of.top("itm", 1)[:, 0] for form, of in forms.items()}
        row: dict[str, Any] = {"set": name, "direction": title, "queries": len(first["match"])}
        row["other first %"] = round(100 * float((first["margin"] != first["match"]).double().mean()), 1)
        for k in (1, 5, 10):
            row |= {f"R@{k} {form}": round(recall(of.ranks("itm"), k), 1) for form, of in forms.items()}
        found.append(row)
    return found


def main() -> None:
    """Scores every set and writes the record."""
    parser = record_parser(__doc__)
    for kind in ("corpus", "annotations"):
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="RUN=PATH")
    options = parser.parse_args()
    table = []
    for kind in ("corpus", "annotations"):
        for given in getattr(options, kind):
            run, path = (Path(part) for part in given.split("="))
            config = read_model(run).model.config
            side, settings = config.model.vision.image_size, config.evaluation_data
            data: PairSet | RetrievalSet
            if kind == "corpus":
                data = RetrievalSet(path, settings, side)
            else:
                # An image's folder is beside its list.
                data = PairSet(read_pairs(config, path, "test"), replace(settings, image_root=str(path.parent / "images")), side)
            assert config.recipe in RECIPES, "a run of a recipe"
            table += rows(f"{config.recipe}, {path.stem}", scored(run, data, config))
    sys.argv[1:] = ["=".join(Path(part).name for part in word.split("=")) for word in sys.argv[1:]]  # no path of this machine
    notes = [
        f"Recall in per cent after ITM has re-ranked the {K_TEST} most similar candidates of each query, ties against the model. "
        "Other first: queries whose first answer differs between the two scores."
    ]
    write_record(options.out, "ITM re-ranking by the margin and by the logit of match", notes, table, ["torch"], {})


if __name__ == "__main__":
    main()
