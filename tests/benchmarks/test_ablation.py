"""The ablation's plan and arithmetic; the trainings themselves are stood in for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.ablation import VARIANTS, Ablation, table, word_entropy
from data_tools.files.shard_writer import ShardWriter


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Name of each run that was trained, with its settings. ITM ends at 0.8 and R@k of picture to text at k, else at 2 k."""
    runs: dict[str, list[str]] = {}

    def train(recipe: str, output: Path, settings: list[str]) -> Path:
        if output.name not in runs:
            runs[output.name] = [recipe, *settings]
        output.mkdir(exist_ok=True)
        lines = [{"kind": "step", "itm_accuracy": value, "loss_mlm": 1.5} for value in (0.1, *[0.8] * 10)]
        (output / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return output

    recall = {f"retrieval/{way}_r{k}_itm": float(k * times) for k in (1, 5, 10) for way, times in (("i2t", 1), ("t2i", 2))}
    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "scored", lambda run, device: {"splits": {"hard": recall, "unseen": recall}})
    return runs


def test_only_the_last_row_shares_its_pretraining_and_each_adds_its_part(trained: dict[str, list[str]], tmp_path: Path) -> None:
    plan = Ablation(tmp_path, 400)
    assert plan.train_sharing(3, 7) == f"seed 7: {VARIANTS[3].name}, {VARIANTS[4].name}"
    for number in range(3):
        plan.train_sharing(number, 7)
    assert sorted(trained) == [*(f"pretrain-{i}-7" for i in range(4)), *(f"retrieval-{i}-7" for i in range(5))]
    assert all("train.seed=7" in settings for settings in trained.values())

    def has(setting: str, kind: str) -> list[bool]:
        return [setting in trained[f"{kind}-{i}-7"] for i in range(5) if f"{kind}-{i}-7" in trained]

    assert has("task.itc_weight=0", "pretrain") == [True, False, False, False]
    assert has("task.itm_random_negatives=1", "pretrain") == [True, True, False, False]
    assert has("task.alpha=0.4", "pretrain") == [False, False, False, True]
    assert has("task.alpha=0.4", "retrieval") == [False, False, False, False, True]
    assert has("train.max_steps=400", "pretrain") == [True] * 4 and has("train.max_steps=100", "retrieval") == [True] * 5
    assert f"init.checkpoint={tmp_path / 'pretrain-3-7'}" in trained["retrieval-4-7"]


def test_a_row_has_the_end_of_pretraining_and_the_papers_mean_of_recalls(trained: dict[str, list[str]], tmp_path: Path) -> None:
    row = Ablation(tmp_path, 400).measure(1, 0)
    expected = {"ITM accuracy": 80.0, "MLM loss": 1.5, "hard, to text": 16 / 3, "hard, to image": 32 / 3}
    assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_the_table_has_means_spreads_and_how_often_a_row_passes_the_one_above() -> None:
    def seed(loss: float, hard: float, unseen: float) -> dict[str, float]:
        return {"MLM loss": loss, "hard, to text": hard, "unseen, to text": unseen}

    first, second = table({"first": [seed(1, 10, 20), seed(3, 10, 20)], "second": [seed(2, 11, 20), seed(2, 12, 18)]})
    assert first == {
        "variant": "first",
        "MLM loss": "2.00 ± 1.41",
        "hard, to text": "10.00 ± 0.00",
        "unseen, to text": "20.00 ± 0.00",
        "seeds above the last row": "",
    }
    assert second["seeds above the last row"] == "1 of 2"
    assert table({"single": [{"x": 2.0}]}) == [{"variant": "single", "x": "2.00 ± 0.00", "seeds above the last row": ""}]


def test_the_entropy_of_single_words(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=8) as writer:
        for caption in ("red red", "blue green"):
            writer.add(b"picture", "jpg", {"captions": [caption], "image_id": caption, "source": "made"})
    assert word_entropy(tmp_path / "shards") == pytest.approx(1.0397207708)  # half red, a quarter each of the others
