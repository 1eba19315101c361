"""A mixture of corpora is one deterministic order: exact shares, no losses within a corpus, resumable with other weights."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.mixture import parse_mixture
from albef_ds.config.schema import DataConfig, RunConfig, TrainConfig
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.stream.corpus import ImageTextStream, chosen
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.mixed_order import BLOCK, MixedOrder, quotas_of
from albef_ds.data.stream.order import SampleOrder
from tests.data.conftest import sample
from tests.data.stream.test_corpus import GLOBAL, SMALL, by_position, take


def orders(group_size: int = 1) -> dict[str, SampleOrder]:
    sizes = {"a": [7, 5], "b": [40], "c": [2000, 0, 1]}
    return {name: SampleOrder(counts, seed=3, group_size=group_size) for name, counts in sizes.items()}


def mixed(*sections: tuple[int, dict[str, int]], group_size: int = 1) -> MixedOrder:
    return MixedOrder(orders(group_size), sections, 2053, seed=3, group_size=group_size)


def test_every_block_has_the_quotas_and_each_corpus_goes_through_its_own_order() -> None:
    quotas = quotas_of({"a": 1, "b": 2, "c": 7})
    assert quotas == {"a": 100, "b": 200, "c": 700}
    order, own = mixed((0, quotas)), list(orders().values())
    places = [order.locate(position) for position in range(3 * BLOCK)]
    owners = [next(c for c, first in ((2, 3), (1, 2), (0, 0)) if shard >= first) for shard, _ in places]
    for block in range(3):
        assert Counter(owners[block * BLOCK : (block + 1) * BLOCK]) == {0: 100, 1: 200, 2: 700}
    for corpus, first in enumerate((0, 2, 3)):
        seen = [(shard - first, row) for (shard, row), owner in zip(places, owners, strict=True) if owner == corpus]
        assert seen == [own[corpus].locate(n) for n in range(len(seen))]
    assert owners[:BLOCK] != owners[BLOCK : 2 * BLOCK]
    assert order.shares(0, 1500) != order.shares(0, 2000) == {"a": 0.1, "b": 0.2, "c": 0.7}


def test_other_weights_go_on_from_where_each_corpus_was() -> None:
    first, second = quotas_of({"a": 1, "b": 1, "c": 8}), quotas_of({"c": 1, "b": 3})
    order, own = mixed((0, first), (1234, second), (1300, first)), orders()
    assert [order.locate(p) for p in range(1234)] == [mixed((0, first)).locate(p) for p in range(1234)]
    for name, start in (("a", 0), ("b", 2), ("c", 3)):
        seen = [
            (shard - start, row) for shard, row in map(order.locate, range(2500)) if start <= shard < {0: 2, 2: 3, 3: 9}[start]
        ]
        assert seen == [own[name].locate(n) for n in range(len(seen))], name
    assert order.shares(1234, 1300)["a"] == 0


def test_the_names_may_be_given_in_another_order_later() -> None:
    sections = [(0, {"a": 300, "b": 300, "c": 400})]
    turned = MixedOrder(dict(reversed(orders().items())), sections, 2053, seed=3)
    first = {"a": (0, 4), "b": (2, 3), "c": (3, 0)}  # the first shard in either numbering
    for position in range(1500):
        shard, row = mixed(*sections).locate(position)
        name = "c" if shard >= 3 else "b" if shard == 2 else "a"
        assert turned.locate(position) == (shard - first[name][0] + first[name][1], row)
    with pytest.raises(ConfigError, match=r"lacks [abc], which the run reads here"):
        [MixedOrder({"a": orders()["a"]}, sections, 12, seed=3).locate(position) for position in range(20)]


def test_groups_stay_together() -> None:
    order = mixed((0, quotas_of({"a": 1, "b": 1, "c": 2})), group_size=4)
    for first in range(0, 400, 4):
        places = [order.locate(position) for position in range(first, first + 4)]
        assert len({shard for shard, _ in places if shard >= 3}) in (0, 1)
        assert places[0][0] < 3 or [row for _, row in places] == list(range(places[0][1], places[0][1] + 4))


@pytest.mark.parametrize(
    "weights", [{"a": 1.0}, {"a": 1e-9, "b": 1.0}, {"a": 1, "b": 1, "c": 1}, {str(n): n + 0.1 for n in range(50)}]
)
def test_quotas_add_up_and_leave_no_corpus_out(weights: dict[str, float]) -> None:
    quotas = quotas_of(weights)
    assert sum(quotas.values()) == BLOCK and min(quotas.values()) >= 1 and list(quotas) == list(weights)


def stream(mixture: str, sections: Any = (), seed: int = 3, **share: Any) -> ImageTextStream:
    train = TrainConfig(seed=seed, micro_batch_size=share.pop("micro", 6), global_batch_size=GLOBAL)
    data = DataConfig(mixture=mixture, num_workers=share.pop("workers", 0), cache=share.pop("cache", ""))
    return ImageTextStream(RunConfig(model=SMALL, data=data, train=train), Share(**share), sections)


def rows(source: ImageTextStream, batches: int) -> dict[int, tuple[Any, ...]]:
    return by_position(take(source, batches))


@pytest.fixture
def two(make_corpus: Any) -> tuple[Path, Path]:
    """Two corpora, whose first samples have a score."""
    scored = {number: {"score": number / 10} for number in range(8)}
    return make_corpus(23, broken=scored, name="one"), make_corpus(11, name="other")


def test_ranks_workers_and_resumption_see_the_same_mixture(two: tuple[Path, Path]) -> None:
    text = f"one={two[0]},weight=1;other={two[1]},weight=3"
    whole = rows(stream(text), 8)
    assert {row[0].partition("/")[0] for row in whole.values()} == {"one", "other"}
    halves = [rows(stream(text, rank=rank, world_size=2, micro=3, workers=rank), 8) for rank in (0, 1)]
    assert halves[0] | halves[1] == whole
    source = stream(text, start_position=24)
    resumed = stream(text, source.sections, start_position=24)
    assert rows(resumed, 4) == {position: row for position, row in whole.items() if position >= 24}
    assert resumed.sections == [(0, {"one": 250, "other": 750})]
    changed = stream(f"other={two[1]},weight=1;one={two[0]},weight=1", source.sections, start_position=24)
    assert changed.sections == [*source.sections, (24, {"other": 500, "one": 500})]
    later = rows(changed, 4)
    before = [whole[position][0] for position in range(24) if whole[position][0].startswith("one")]
    after = [later[position][0] for position in sorted(later) if later[position][0].startswith("one")]
    assert len(set(before + after)) == len(before + after) <= 23  # its epoch goes on


def test_thresholds_captions_and_sample_counts(two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALBEF_SCRATCH", str(tmp_path))
    source = stream(f"one={two[0]},samples=10,min.score=0.25,captions=first;other={two[1]},samples=10,captions=longest")
    assert source.num_samples == 20 and source.sections == [(0, {"one": 500, "other": 500})]
    keys = {row[0] for row in rows(source, 20).values()}
    assert {key for key in keys if key.startswith("one")} == {f"one/{number:09d}" for number in range(3, 8)}
    assert stream(f"one={two[0]};other={two[1]}").sections == [(0, {"one": 676, "other": 324})]
    with pytest.raises(DataError, match=r"no sample of data.mixture one reaches score 9"):
        stream(f"one={two[0]},min.score=9;other={two[1]}")
    captions = sample(1)[2]["captions"]
    assert chosen(captions, "first") == captions[:1] and chosen(captions, "longest") == ["a dog number 1"]
    assert chosen(captions, "shortest") == ["the cat of 1"] and chosen(captions, "random") == captions


def test_the_json_of_a_corpus_with_thresholds_is_read_once_per_node(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALBEF_SCRATCH", str(tmp_path))
    read: list[tuple[int, int]] = []
    real = ShardReader.read_meta
    monkeypatch.setattr(ShardReader, "read_meta", lambda own, *place: read.append(place) or real(own, *place))

    def keys(least: float) -> set[str]:
        source = stream(f"one={two[0]},samples=10,min.score={least};other={two[1]},samples=10")
        return {row[0] for row in rows(source, 20).values() if row[0].startswith("one")}

    first = keys(0.25)
    assert len(read) == 23
    assert keys(0.25) == first and len(read) == 23
    assert keys(0.5) < first and len(read) == 46, "another threshold"
    for path in (tmp_path / "albef-ds" / "cache" / "albef-ds-thresholds").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-1])  # a node that lost power
    assert keys(0.25) == first and len(read) == 69


def test_processes_that_start_together_read_the_json_once(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALBEF_SCRATCH", str(tmp_path))
    read: list[tuple[int, int]] = []
    real, begun = ShardReader.read_meta, threading.Event()

    def slowly(own: ShardReader, *place: int) -> bytes:
        begun.set()
        time.sleep(0.01)  # the other one comes meanwhile
        read.append(place)
        return real(own, *place)

    monkeypatch.setattr(ShardReader, "read_meta", slowly)
    found = []
    text = f"one={two[0]},samples=10,min.score=0.25;other={two[1]},samples=10"
    threads = [threading.Thread(target=lambda: found.append(stream(text).num_samples)) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert found == [20, 20] and len(read) == 23


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/data/coco", "is not NAME=CORPUS"),
        ("s3://key:hush@bucket/x", "is not NAME=CORPUS"),
        ("a=/x,weight=1;a=/y,weight=1", "names a corpus twice"),
        ("a=/x,weight=1;b=/y,samples=5", "has weights and sample counts"),
        ("a=/x,weight=1;b=/y", "has weights and sample counts"),
        ("a=/x,weight=0", "weight=0 is not a number above 0"),
        ("a=/x,weight=-1", "negative"),
        ("a=/x,weight=nan", "weight=nan is not a number"),
        ("a=/x,captions=best", "captions=best is unknown"),
        ("a=/x,colour=red", "unknown colour"),
        ("a=/x,weight", "has weight"),
        ("a=s3://key:hush@bucket/x", "holds a user, a password"),
    ],
)
def test_mistakes_in_a_mixture_are_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        DataConfig(mixture=text)
    assert "\n" not in str(caught.value) and "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"beside data.mixture"):
        DataConfig(mixture="a=/x", shards="/y")
    assert parse_mixture("") == () and parse_mixture("a=s3://b/c?d,min.x=-1;")[0].minimum == {"x": -1.0}
