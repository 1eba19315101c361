"""The arithmetic of the benchmark of pairs chosen by a model; the trainings themselves are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pairs import ARMS, Sitting, found_wrong, table
from data_tools.scenes.corpus import SceneCounts, SceneSettings, write_scenes


def test_precision_and_recall_are_those_of_the_lowest_scores() -> None:
    wrong = np.zeros(100, np.bool_)
    wrong[:30] = True
    scores = np.arange(100, dtype=np.float32)
    assert found_wrong(scores, wrong) == pytest.approx(
        {"precision": 100, "recall": 2500 / 30, "precision at 80% recall": 100, "recall at 95% precision": 100}
    )
    scores[25:30] += 50  # five wrong ones score high
    found = found_wrong(scores, wrong)
    assert found["recall"] == pytest.approx(2500 / 30)
    assert found["recall at 95% precision"] == pytest.approx(2500 / 30)


def test_wrong_captions_are_known_by_their_ids(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path, steps=4, scale=0.01, noise=0.5)
    counts = SceneCounts().scaled(0.01)
    write_scenes(sitting.scenes, SceneSettings(side=32, grouped=0.25, caption_noise=0.5, counts=counts))
    wrong = sitting.wrong()
    assert len(wrong) == counts.pretrain
    assert 0.3 < wrong.mean() < 0.7


def test_rows_have_the_mean_and_every_seed() -> None:
    rows = table([{"an arm": {"R@1": 10.0}}, {"an arm": {"R@1": 20.0}}])
    assert rows == [{"arm": "an arm", "measure": "R@1", "mean": "15.0", "each seed": "10.0, 20.0"}]
    assert len(ARMS) == 5
