"""Search by blocks and by the graph of neighbours, beside a sort of all products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from albef_ds.common.errors import MachineError
from albef_ds.inference.index import approximate, nearest
from albef_ds.inference.index.approximate import Approximate, recall
from albef_ds.inference.index.store import FeatureStore, Table


def _table(number: int, dim: int = 8, *, seed: int = 0, equal: bool = False) -> Table:
    """Random features in shuffled rows, some of which belong to no image."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(number + 7, dim)).astype(np.float32)
    features = np.round(features) if equal else features / np.linalg.norm(features, axis=1, keepdims=True)
    return Table(tuple(f"{name:06d}" for name in range(number)), generator.permutation(number + 7)[:number], features, "file")


def _sorted(table: Table, queries: Tensor, k: int) -> list[list[int]]:
    products = (queries @ torch.from_numpy(table.features[table.rows]).t()).numpy()
    return [sorted(range(len(row)), key=lambda place: (-row[place], place))[:k] for row in products]


@pytest.mark.parametrize("number", [1, 5, 100, 1000])
@pytest.mark.parametrize("equal", [False, True])
def test_the_nearest_are_those_of_a_sort_with_ties_by_place(number: int, equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(number, equal=equal)
    queries = torch.from_numpy(np.round(np.random.default_rng(1).normal(size=(3, 8)))).float()
    for block in (16, 64, 4096):
        monkeypatch.setattr(nearest, "_BLOCK", block)
        for k in (0, 1, 7, 2000):
            found = nearest.nearest(table, queries, k)
            assert [[place for place, _ in row] for row in found] == _sorted(table, queries, k)
    for place, product in found[1]:
        assert product == pytest.approx(float(queries[1] @ torch.from_numpy(table.features[table.rows[place]])), abs=1e-5)


def test_nothing_is_nearest_to_anything_in_an_empty_table() -> None:
    table = Table((), np.zeros(0, np.int64), np.zeros((0, 8), np.float32), "file")
    assert nearest.nearest(table, torch.ones(2, 8), 3) == [[], []]


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "usearch", None)
    with pytest.raises(MachineError, match=r"pip install albef-ds\[ann\]"):
        Approximate.of(_table(5), tmp_path / "index")


def _clustered(number: int, dim: int = 32) -> np.ndarray:
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(50, dim))
    features = centres[generator.integers(50, size=number)] + 0.5 * generator.normal(size=(number, dim))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def test_the_graph_finds_almost_all_and_says_how_many(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    features = _clustered(3000)
    opened = FeatureStore(tmp_path / "index", "model", 32)
    names = [f"{name:05d}" for name in range(3000)]
    opened.append(names[:2500], ["1"] * 2500, features[:2500])
    table = opened.table(dict.fromkeys(names[5:2500], "1"))
    graph = Approximate.of(table, tmp_path / "index")
    queries = torch.from_numpy(features[::97])
    found, exact = graph.nearest(table, queries, 20), nearest.nearest(table, queries, 20)
    assert graph.recall > 0.95 and recall(found, exact) > 0.95
    for row, right in zip(found, exact, strict=True):
        scores = dict(right)
        assert len(row) == 20 and all(scores.get(place, score) == pytest.approx(score, abs=1e-6) for place, score in row)
    made = set(tmp_path.iterdir())
    opened.append(names[2500:2600], ["1"] * 100, features[2500:2600])
    table = opened.table(dict.fromkeys(names, "1"))
    graph = Approximate.of(table, tmp_path / "index")
    assert set(tmp_path.iterdir()) == made, "few new images are searched exactly"
    assert graph.nearest(table, torch.from_numpy(features[2550:2551]), 1)[0][0][0] == 2550
    opened.append(names[2600:], ["1"] * 400, features[2600:])
    table = opened.table(dict.fromkeys(names, "1"))
    graph = Approximate.of(table, tmp_path / "index")
    assert len(list(tmp_path.glob("*.hnsw"))) == 1 and set(tmp_path.iterdir()) != made
    assert graph.nearest(table, torch.from_numpy(features[2990:2991]), 1)[0][0][0] == 2990
    [file] = tmp_path.glob("*.hnsw")
    file.write_bytes(file.read_bytes()[:1000])
    again = Approximate.of(table, tmp_path / "index")
    assert again.recall > 0.95 and recall(again.nearest(table, queries, 20), nearest.nearest(table, queries, 20)) > 0.95


def test_where_few_rows_have_images_more_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    features = _clustered(2000)
    table = Table(tuple(f"{n}" for n in range(30)), np.arange(30, dtype=np.int64) * 60, features, "file")
    graph = Approximate.of(table, tmp_path / "index")
    assert [len(row) for row in graph.nearest(table, torch.from_numpy(features[:4]), 40)] == [30] * 4
    assert approximate.RECALL_AT == 64 and graph.recall > 0.9


def test_a_table_from_before_other_images_came_is_searched_with_their_graph(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    features = _clustered(60)
    opened = FeatureStore(tmp_path / "index", "model", 32)
    names = [f"{name:02d}" for name in range(60)]
    opened.append(names[:20], ["1"] * 20, features[:20])
    earlier = opened.table(dict.fromkeys(names, "1"))
    opened.append(names[20:], ["1"] * 40, features[20:])
    Approximate.of(opened.table(dict.fromkeys(names, "1")), tmp_path / "index")
    graph, queries = Approximate.of(earlier, tmp_path / "index"), torch.from_numpy(features[::7])
    found, exact = graph.nearest(earlier, queries, 5), nearest.nearest(earlier, queries, 5)
    assert recall(found, exact) == 1.0 and [len(row) for row in found] == [5] * len(exact)


def test_a_copy_of_an_image_is_as_good_as_the_image() -> None:
    exact = [[(0, 0.9), (1, 0.5), (2, 0.5)]]
    assert recall([[(0, 0.9), (7, 0.5), (8, 0.49999997), (9, 0.49999997)]], exact) == 1.0
    assert recall([[(0, 0.9), (7, 0.4), (8, 0.3)]], exact) == pytest.approx(1 / 3)
    assert recall([[]], exact) == 0.0 and recall([[]], [[]]) == 0.0
