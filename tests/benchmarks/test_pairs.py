"""The arithmetic of the benchmark of pairs chosen by a model; the trainings themselves are left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from albef_ds.data.shards.reader import ShardReader
from benchmarks.pairs import Sitting, found_wrong, table
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes


def test_precision_and_recall_are_those_of_the_lowest_scores() -> None:
    wrong = np.zeros(100, np.bool_)
    wrong[:30] = True
    scores = np.arange(100, dtype=np.float32)
    assert found_wrong(scores, wrong) == pytest.approx(
        {"precision": 100, "recall": 2900 / 30, "precision at 80% recall": 100, "recall at 95% precision": 100}
    )
    scores[25:30] += 50  # five wrong ones score high
    found = found_wrong(scores, wrong)
    assert found["precision"] == pytest.approx(2500 / 29)
    assert found["recall"] == pytest.approx(2500 / 30)
    assert found["recall at 95% precision"] == pytest.approx(2500 / 30)


def test_wrong_captions_are_known_by_their_ids(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, steps=4, tuning=1, scale=0.01, noise=0.5, arms=())
    counts = SceneCounts().scaled(0.01)
    write_scenes(sitting.scenes, SceneSettings(side=32, grouped=0.25, caption_noise=0.5, counts=counts))
    wrong = sitting.wrong()
    assert len(wrong) == counts.pretrain
    assert 0.3 < wrong.mean() < 0.7


def test_rows_have_the_mean_and_every_seed() -> None:
    rows = table([{"an arm": {"R@1": 10.0}}, {"an arm": {"R@1": 20.0}}])
    assert rows == [{"arm": "an arm", "measure": "R@1", "mean": "15.0", "each seed": "10.0, 20.0"}]


def test_fine_tuning_has_every_image_once_with_both_captions(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, steps=4, tuning=1, scale=0.01, noise=0.0, arms=())
    sitting.write()
    reader = ShardReader(sitting.tuning_shards())
    found = [json.loads(reader.read_meta(0, row)) for row in range(reader.counts[0])]
    given = json.loads((sitting.scenes / "retrieval_train.json").read_text())
    assert [(meta["image_id"], caption) for meta in found for caption in meta["captions"]] == [
        (row["image_id"], row["caption"]) for row in given
    ]
    assert {len(meta["captions"]) for meta in found} == {2}
