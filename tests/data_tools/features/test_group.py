"""`albef-data group`, and the order in which a run reads a corpus by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from albef_ds.common.errors import UserError
from albef_ds.config.schema import DataConfig, RunConfig, TrainConfig
from albef_ds.data.shards.format import Manifest
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.open import open_stream
from albef_ds.data.stream.order import SampleOrder
from albef_ds.launch.slurm.staging import stage
from albef_ds.tasks import registry
from data_tools.cli import main
from data_tools.execution.stage_folder import StageFolder, digest_of
from data_tools.files.shard_writer import ShardWriter
from data_tools.matching import similar_order as module
from data_tools.matching.similar_order import similar_order
from tests.data_tools.sample_images import jpeg

KINDS, EACH = 8, 30
SAMPLES = KINDS * EACH


def kind_of(sample: int) -> int:
    """Samples of one kind are far from each other in the corpus."""
    return sample * 7 % KINDS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 pairs in shards of 16, with stored features of 8 kinds of images and texts."""
    folder = tmp_path_factory.mktemp("grouped") / "corpus"
    image = jpeg(0, width=8, height=8)
    with ShardWriter(folder, samples_per_shard=16, info={}) as writer:
        for number in range(SAMPLES):
            writer.add(image, "jpg", {"captions": ["one", "two"][: 1 + number % 2], "image_id": str(number), "source": "t"})
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((KINDS, 16))
    shards, first = Manifest.load(folder).shards, 0
    (folder / "embed").mkdir()
    for shard in shards:
        rows = range(first, first + shard.num_samples)
        images = np.stack([centres[kind_of(row)] + 0.1 * rng.standard_normal(16) for row in rows]).astype(np.float16)
        counts = np.array([1 + row % 2 for row in rows], np.int32)
        arrays = {"images": images, "texts": np.repeat(images, counts, axis=0), "captions": counts}
        scores = {name: np.zeros(counts.sum(), np.float32) for name in ("itc", "itm")}
        (folder / "embed" / shard.name.replace(".tar", ".safetensors")).write_bytes(save({**arrays, **scores}))
        first += shard.num_samples
    checksums = [shard.checksum for shard in shards]
    stored = StageFolder(folder / "embed", "")
    stored.finish({"embed_dim": 16, "num_captions": 360, "digest": digest_of({}), "shards": checksums})
    assert main(["group", str(folder)]) == 0
    return folder


def run_config(corpus: Path, **data: object) -> RunConfig:
    settings = {"shards": str(corpus), "group_order": "groups", "group_size": 4, **data}
    return replace(RunConfig(), data=DataConfig(**settings), train=TrainConfig(seed=3))  # type: ignore[arg-type]


def samples(order: SampleOrder, start: int, count: int) -> list[int]:
    return [shard * 16 + row for shard, row in (order.locate(position) for position in range(start, start + count))]


def counts_of(corpus: Path) -> list[int]:
    return [shard.num_samples for shard in Manifest.load(corpus).shards]


@pytest.mark.parametrize("window", [1 << 20, 64])
def test_every_epoch_has_every_sample_once_in_groups_of_one_kind(corpus: Path, window: int) -> None:
    order = SampleOrder.of(counts_of(corpus), run_config(corpus, window=window))
    pairs, alike = 0, 0
    for epoch in range(4):
        read = samples(order, epoch * SAMPLES, SAMPLES)
        assert sorted(read) == list(range(SAMPLES))
        for group in range(0, SAMPLES, 4):
            kinds = [kind_of(sample) for sample in read[group : group + 4]]
            alike += sum(kind == kinds[0] for kind in kinds[1:])
            pairs += 3
    # By chance one pair in eight is of one kind. A window of 64 has eight samples of a kind, in two parts.
    assert alike / pairs > (0.7 if window > SAMPLES else 0.4)


def test_epochs_group_a_sample_with_others(corpus: Path) -> None:
    order = SampleOrder.of(counts_of(corpus), run_config(corpus))
    met = [set[int](), set[int]()]
    for epoch in range(2):
        read = samples(order, epoch * SAMPLES, SAMPLES)
        group = read.index(0) // 4 * 4
        met[epoch] = set(read[group : group + 4]) - {0}
    assert met[0] != met[1]


def test_the_order_depends_on_settings_only_and_is_open_to_random_access(corpus: Path) -> None:
    config = run_config(corpus, window=64)
    forward = samples(SampleOrder.of(counts_of(corpus), config), 0, 600)
    other = SampleOrder.of(counts_of(corpus), config)
    assert [samples(other, position, 1)[0] for position in reversed(range(600))] == forward[::-1]
    assert forward != samples(SampleOrder.of(counts_of(corpus), replace(config, train=TrainConfig(seed=4))), 0, 600)


def test_groups_begin_at_micro_batches_in_every_epoch(corpus: Path) -> None:
    order = SampleOrder.of(counts_of(corpus), run_config(corpus, group_size=7))
    starts, other = 0, 0
    for first in range(240, 1200, 7):
        start = first + -first % 7  # 240 is no multiple of 7: later epochs begin with the rest of a group
        for place, count in ((start, "starts"), (start + 3, "other")):
            kinds = [kind_of(sample) for sample in samples(order, place, 7)]
            alike = sum(kind == kinds[0] for kind in kinds[1:])
            starts, other = starts + alike * (count == "starts"), other + alike * (count == "other")
    assert starts > 1.3 * other


def test_a_staged_view_gives_the_same_order(corpus: Path, tmp_path: Path) -> None:
    staged, mark = stage(corpus, tmp_path, "job", range(5), 1 << 30)
    counts = counts_of(corpus)
    here, there = (SampleOrder.of(counts, run_config(folder)) for folder in (corpus, staged.folder))
    assert samples(here, 0, 160) == samples(there, 0, 160)
    assert mark > 0


def test_an_order_of_other_shards_a_damaged_one_and_none_are_refused(corpus: Path, tmp_path: Path) -> None:
    counts, copy = counts_of(corpus), tmp_path / "copy"
    copy.mkdir()
    for name in ("manifest.json", "groups.order.json", "groups.order.npy"):
        (copy / name).write_bytes((corpus / name).read_bytes())
    assert samples(SampleOrder.of(counts, run_config(copy)), 0, 4)
    places = (copy / "groups.order.npy").read_bytes()
    (copy / "groups.order.npy").write_bytes(places[:-4] + places[-8:-4])
    with pytest.raises(UserError, match="damaged \\(its checksum differs\\): run `albef-data group"):
        SampleOrder.of(counts, run_config(copy))
    (copy / "groups.order.npy").write_bytes(places[:30])
    with pytest.raises(UserError, match="is damaged"):
        SampleOrder.of(counts, run_config(copy))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0]["checksum"] = "0" * 32
    del manifest["checksum"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "groups.order.npy").write_bytes(places)
    with pytest.raises(UserError, match="of other shards"):
        SampleOrder.of(counts, run_config(copy))
    with pytest.raises(UserError, match="has no order other"):
        SampleOrder.of(counts, run_config(corpus, group_order="other"))
    with pytest.raises(UserError, match="groups of one sample"):
        run_config(corpus, group_size=1)


def test_an_order_that_a_run_may_use_is_not_replaced_unasked(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (corpus / "groups.order.npy").read_bytes()
    assert main(["group", str(corpus)]) == 2
    assert "give another name, or make it again with restart" in capsys.readouterr().err
    assert main(["group", str(corpus), "--name", "pictures", "--by", "images", "--seed", "2"]) == 0
    assert "of neighbours" in capsys.readouterr().out
    assert main(["group", str(corpus), "--restart"]) == 0
    assert (corpus / "groups.order.npy").read_bytes() == before
    assert sorted(path.name for path in corpus.glob(".*")) == []
    assert load((corpus / "embed" / "00000.safetensors").read_bytes())["captions"].tolist() == [1, 2] * 8


@pytest.mark.parametrize("in_memory", [1 << 18, 100])
def test_neighbours_in_the_order_are_alike(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(module, "_SAMPLE", min(in_memory, module._SAMPLE))
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(20), 25))
    features = rng.standard_normal((20, 8))[labels] + 0.05 * rng.standard_normal((500, 8))
    order = similar_order(features)
    assert sorted(order.tolist()) == list(range(500))
    changes = int((labels[order][1:] != labels[order][:-1]).sum())
    assert changes < 60  # 19 at best, 474 of a random order
    near, far = module.neighbour_similarity(features, order)
    assert near > 0.9 > far


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 33])
def test_few_or_equal_rows_are_ordered_too(rows: int) -> None:
    assert sorted(similar_order(np.zeros((rows, 4), np.float16)).tolist()) == list(range(rows))


def test_a_corpus_in_a_mixture_has_its_own_groups(corpus: Path) -> None:
    config = run_config(corpus)
    mixture = f"a={corpus};b={corpus}"
    mixed = replace(config, data=replace(config.data, shards="", mixture=mixture))
    stream = ImageTextStream(mixed, Share(0, 1))
    order = stream._dataset.order
    alike = pairs = 0
    for first in range(0, 400, 4):
        places = [order.locate(position) for position in range(first, first + 4)]
        kinds = [kind_of(shard % 15 * 16 + row) for shard, row in places]
        assert len({shard // 15 for shard, _ in places}) == 1
        alike, pairs = alike + sum(kind == kinds[0] for kind in kinds[1:]), pairs + 3
    assert alike / pairs > 0.7
    stream.close()


@pytest.mark.parametrize("named", [{"shards": "a.tar"}, {"annotations": "a.json"}])
def test_what_is_no_corpus_has_no_order(corpus: Path, named: dict[str, str]) -> None:
    config = run_config(corpus, **named)
    with pytest.raises(UserError, match="is an order of a corpus, not of"):
        open_stream(config, registry.kind_of(config.task).samples)
