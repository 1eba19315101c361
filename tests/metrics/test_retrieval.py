"""Compares the retrieval evaluator with a brute-force reference, on several ranks and on a real corpus folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from albef_ds.common.errors import DataError
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import ComputeConfig
from albef_ds.engine.build import attach_momentum, build_task
from albef_ds.evaluation.evaluate import evaluate_validation
from albef_ds.metrics import retrieval
from albef_ds.metrics.retrieval import K_TEST, RetrievalEvaluator
from albef_ds.metrics.scores import EvaluationOptions
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.tasks.evaluators import RETRIEVAL, corpus_set
from data_tools.files.shard_writer import ShardWriter
from tests.distributed import run_ranks
from tests.tiny import tiny_model

CPU = torch.device("cpu")
MODEL = tiny_model(
    vision={"width": 16, "depth": 1}, text={"vocab_size": 60, "num_layers": 1, "max_positions": 512, "dropout": 0.1}
)


class Pairs:
    """13 images, the last a copy of the first; 1 to 3 captions each, some of them shared by several images."""

    num_images = 13

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.pixels = torch.randn(13, 3, 16, 16, generator=generator)
        self.pixels[12] = self.pixels[0]
        self.caption_image = torch.tensor([image for image in range(13) for _ in range(1 + image % 3)])
        self.tokens = []
        for number in range(len(self.caption_image)):
            length = 2 + number % 5
            self.tokens.append([2, *torch.randint(5, 60, (length,), generator=generator).tolist()])
        self.tokens[7] = self.tokens[3]
        self.tokens[20] = self.tokens[3]

    def images(self, rows: Sequence[int]) -> Tensor:
        return self.pixels[list(rows)]

    def text_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.tokens), 6):  # batches of different lengths
            chunk = self.tokens[start : start + 6]
            length = max(map(len, chunk))
            ids = torch.tensor([row + [0] * (length - len(row)) for row in chunk])
            yield ids, ids > 0


def model() -> tuple[ALBEF, nn.Linear]:
    """Weights far from their tiny initial values, so that scores differ."""
    torch.manual_seed(0)
    albef, head = ALBEF(MODEL, ComputeConfig()), nn.Linear(16, 2)
    for module in (albef, head):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return albef, head


def evaluator(**arguments: Any) -> RetrievalEvaluator:
    albef, head = model()
    return RetrievalEvaluator(albef, head, Pairs(), CPU, **({"k_test": 4, "batch_size": 5} | arguments))


@torch.no_grad()
def brute_force(k_test: int) -> dict[str, float]:
    """Reference that scores one pair at a time and counts ranks."""
    albef, head = model()
    albef.eval()
    data = Pairs()
    owner = data.caption_image.tolist()
    images = [albef.encode_image(data.pixels[row : row + 1]) for row in range(13)]
    texts = [albef.encode_text(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool)) for row in data.tokens]
    features = [albef.project_text(t, torch.ones(t.shape[:2], dtype=torch.bool))[0] for t in texts]
    sim = np.array([[float(albef.project_image(i)[0] @ feature) for feature in features] for i in images])
    margin = np.zeros_like(sim)
    for i, image in enumerate(images):
        for t, text in enumerate(texts):
            [hidden] = albef.fuse(image, [FusionPass(text, torch.ones(text.shape[:2], dtype=torch.bool))])
            logits = head(hidden[0, 0])
            margin[i, t] = float(logits[1] - logits[0])
    found = {}
    for name in ("i2t", "t2i"):
        for suffix in ("", "_itm"):
            hits = {1: 0, 5: 0, 10: 0}
            queries = range(13) if name == "i2t" else range(len(owner))
            for query in queries:
                row, judged = (sim[query], margin[query]) if name == "i2t" else (sim[:, query], margin[:, query])
                good = [owner[c] == query if name == "i2t" else owner[query] == c for c in range(len(row))]
                order = sorted(range(len(row)), key=lambda c: (-round(row[c], 5), good[c]))
                key = [(0, row[c]) for c in range(len(row))]
                if suffix:
                    for c in order[:k_test]:
                        key[c] = (1, judged[c])
                best = max(key[c] for c in range(len(row)) if good[c])
                rank = sum(
                    not good[c] and (key[c][0] > best[0] or (key[c][0] == best[0] and key[c][1] > best[1] - 2e-6))
                    for c in range(len(row))
                )
                for k in hits:
                    hits[k] += rank < k
            for k, count in hits.items():
                found[f"retrieval/{name}_r{k}{suffix}"] = 100.0 * count / len(queries)
    return found


@pytest.mark.parametrize("k_test", [1, 4, 1000])
def test_recall_equals_brute_force_with_ties_and_several_captions(k_test: int) -> None:
    metrics = dict(evaluator(k_test=k_test).run())
    expected = brute_force(k_test)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert len(set(expected.values())) > 4, "the case tells nothing apart"


def test_k_test_above_the_number_of_candidates_means_all_of_them() -> None:
    metrics = dict(evaluator(k_test=1000).run())
    assert (metrics["retrieval/k_test_i2t"], metrics["retrieval/k_test_t2i"]) == (25.0, 13.0)


def test_without_reranking_only_similarity_is_reported() -> None:
    metrics = dict(evaluator(k_test=0).run())
    assert "retrieval/t2i_r10" in metrics and "retrieval/t2i_r10_chance" in metrics
    assert not any("itm" in name for name in metrics)


def test_equal_captions_and_equal_pictures_tie_whatever_batch_they_are_in() -> None:
    same = Pairs()
    same.tokens = [[2, 9, 11]] * 25
    same.pixels[:] = same.pixels[0]
    albef, head = model()
    scores = RetrievalEvaluator(albef, head, same, CPU, k_test=1000, batch_size=4).score()
    for ranking in scores.rankings:
        assert scores.i2t.ranks(ranking).tolist() == [25 - (1 + image % 3) for image in range(13)]
        assert scores.t2i.ranks(ranking).tolist() == [12] * 25


def test_batch_size_changes_no_metric() -> None:
    assert dict(evaluator(batch_size=64).run()) == dict(evaluator(batch_size=2).run())


def _metrics_and_scores(batch_size: int) -> tuple[dict[str, float], Tensor, Tensor]:
    judge = evaluator(batch_size=batch_size)
    scores = judge.score()
    assert scores.t2i.margins is not None
    return dict(scores.metrics("retrieval")), scores.i2t.similarity, scores.t2i.margins


@pytest.mark.parametrize("batch_size", [2, 5, 13])
def test_two_ranks_give_the_scores_of_one_process_to_the_bit(batch_size: int) -> None:
    expected = run_ranks(_metrics_and_scores, 1, batch_size)[0]
    for metrics, similarity, margins in run_ranks(_metrics_and_scores, 2, batch_size):
        assert metrics == expected[0]
        assert torch.equal(similarity, expected[1]) and torch.equal(margins, expected[2])


def _forward_calls() -> int:
    judge, calls = evaluator(batch_size=5), []
    for part in (judge.albef.visual_encoder, judge.albef.text_encoder, judge.albef.multimodal_encoder):
        part.register_forward_hook(lambda *_: calls.append(1))
    judge.score()
    return len(calls)


def test_every_rank_makes_the_same_number_of_forward_passes() -> None:
    """Sharded weights are gathered in forward passes, so a rank that ran fewer of them would hang the others."""
    assert len(set(run_ranks(_forward_calls, 2))) == 1


def test_equal_pairs_are_judged_once_and_images_encoded_once_while_their_tokens_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kept in (retrieval.KEPT_BYTES, 0):
        monkeypatch.setattr(retrieval, "KEPT_BYTES", kept)
        judge, images, pairs = evaluator(k_test=1000), [], []
        judge.albef.visual_encoder.register_forward_hook(lambda _, args, __, images=images: images.append(len(args[0])))
        judge.itm_head.register_forward_hook(lambda _, args, __, pairs=pairs: pairs.append(len(args[0])))
        scores = judge.score()
        assert scores.i2t.margins is not None and scores.t2i.margins is not None
        # 25 captions, of which 3 are equal, and 13 images, of which 2 are; blocks of 5 images, the last filled up.
        assert sum(pairs) == 23 * 12 and sum(images) == (15 if kept else 30)
        found.append((scores.i2t.similarity, scores.i2t.margins, scores.t2i.margins))
    assert all(torch.equal(ours, again) for ours, again in zip(*found, strict=True))


def test_modules_get_their_modes_back_and_no_graph_is_kept() -> None:
    judge = evaluator()
    judge.albef.train()
    judge.albef.text_encoder.eval()
    scores = judge.score()
    assert judge.albef.visual_encoder.training and judge.itm_head.training and not judge.albef.text_encoder.training
    assert not scores.i2t.similarity.requires_grad and scores.i2t.similarity.dtype == torch.float32


def test_dropout_is_off_during_evaluation() -> None:
    judge = evaluator()
    judge.albef.train()
    assert torch.equal(judge.score().i2t.similarity, judge.score().i2t.similarity)


def test_progress_counts_every_stage_to_its_end() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    evaluator(progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total))).score()
    assert list(seen) == ["captions", "images", "pairs"]
    for steps in seen.values():
        assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))


def test_picture_without_a_caption_is_refused() -> None:
    data = Pairs()
    data.caption_image = data.caption_image.clamp(max=11)
    albef, head = model()
    with pytest.raises(DataError, match="image 12 of the evaluation has no caption"):
        RetrievalEvaluator(albef, head, data, CPU)


def test_corpus_folder_is_evaluated_for_student_and_momentum_copy(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "eval", samples_per_shard=4, bytes_per_shard=None, info={})
    for number in range(7):
        picture = io.BytesIO()
        Image.new("RGB", (20, 20), (30 * number, 255 - 30 * number, 90)).save(picture, "PNG")
        meta = {"captions": [f"picture number {number}"], "image_id": str(number), "source": "test"}
        writer.add(picture.getvalue(), "png", meta)
    writer.close()
    config = get_recipe("debug")
    config = replace(config, data=replace(config.data, eval_shards=str(tmp_path / "eval")))
    config = replace(config, train=replace(config.train, eval_samples=6), engine=replace(config.engine, momentum_storage="dense"))
    task = build_task(config)
    attach_momentum(task, config)
    student = evaluate_validation(task, config, CPU)
    assert student["retrieval/num_images"] == 6.0 and student["retrieval/i2t_r5_chance"] == pytest.approx(100 * 5 / 6)
    options = EvaluationOptions(momentum=True, k_test=K_TEST)
    copy = RETRIEVAL.evaluate(task, corpus_set(config), config, CPU, options).metrics
    assert copy["retrieval_momentum/t2i_r1_itm"] == student["retrieval/t2i_r1_itm"]
    with torch.no_grad():
        task.momentum.modules["albef"].vision_proj.weight.normal_()  # type: ignore[union-attr, operator]
    assert evaluate_validation(task, config, CPU) == student
