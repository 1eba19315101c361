"""Shards on node-local scratch: right ones, whole ones, no more than allowed, and a view that reads like the corpus."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.cli.slurm.node import shards_here
from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.data.shards.format import Manifest, ShardEntry, index_name, shard_name
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.launch.slurm.staging import needed_shards, stage
from tests.data.conftest import numbered_corpus

PLENTY = 1 << 30


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return numbered_corpus(tmp_path / "corpus", 20, 5)


def copies(scratch: Path) -> set[str]:
    return {path.name for path in (scratch / "albef-ds" / "shards").iterdir()}


def samples(folder: Path) -> list[tuple[bytes, bytes]]:
    reader = ShardReader(folder)
    found = [reader.read(shard, row) for shard, count in enumerate(reader.counts) for row in range(count)]
    reader.close()
    return found


def test_a_view_reads_like_the_corpus_and_a_second_job_copies_nothing(corpus: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    first, mark = stage(corpus, scratch, "1", range(4), PLENTY)
    second, other = stage(corpus, scratch, "2", range(4), PLENTY)
    assert (first.copied, first.found, second.copied, second.found, second.linked) == (4, 0, 0, 4, 0)
    assert samples(first.folder) == samples(second.folder) == samples(corpus)
    os.close(mark)
    os.close(other)


def test_only_needed_shards_are_copied_and_the_others_are_read_where_they_are(corpus: Path, tmp_path: Path) -> None:
    staged, mark = stage(corpus, tmp_path / "scratch", "1", [2], PLENTY)
    assert (staged.copied, staged.linked) == (1, 3)
    assert copies(tmp_path / "scratch") == {f"{Manifest.load(corpus).shards[2].checksum}.tar"}
    assert samples(staged.folder) == samples(corpus)
    os.close(mark)


def test_the_limit_holds_and_the_longest_unused_copy_goes_first(corpus: Path, tmp_path: Path) -> None:
    scratch, shards = tmp_path / "scratch", Manifest.load(corpus).shards
    limit = sum(shard.num_bytes for shard in shards[:2])
    _, mark = stage(corpus, scratch, "1", [0, 1], limit)
    kept, other = stage(corpus, scratch, "2", [2, 3], limit)
    assert (kept.copied, kept.linked, kept.evicted) == (0, 2, 0), "copies of a running job are not evicted"
    os.close(other)
    os.close(mark)  # job 1 ends
    os.utime(scratch / "albef-ds" / "shards" / f"{shards[1].checksum}.tar", (1, 1))
    staged, mark = stage(corpus, scratch, "3", [2], limit)
    assert (staged.copied, staged.evicted) == (1, 1)
    assert copies(scratch) == {f"{shards[number].checksum}.tar" for number in (0, 2)}
    assert [path.name for path in (scratch / "albef-ds" / "views").iterdir()] == ["3"]
    os.close(mark)


def test_a_damaged_shard_is_refused_and_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    with open(corpus / "00001.tar", "r+b") as file:
        file.seek(3000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(DataError, match=r"00001\.tar differs from the manifest"):
        stage(corpus, tmp_path / "scratch", "1", [0, 1], PLENTY)
    assert copies(tmp_path / "scratch") == {f"{Manifest.load(corpus).shards[0].checksum}.tar"}


def test_a_node_needs_what_its_part_of_each_batch_holds() -> None:
    order = SampleOrder([5] * 40, 0)
    one_batch = needed_shards(order, 0, 8, 8, slice(0, 8))
    halves = [needed_shards(order, 0, 8, 8, half) for half in (slice(0, 4), slice(4, 8))]
    assert set(halves[0]) | set(halves[1]) == set(one_batch) and len(halves[0]) <= 4
    assert sorted(needed_shards(order, 0, None, 8, slice(0, 4))) == list(range(40))
    assert needed_shards(order, 8, 8, 8, slice(0, 4)) != halves[0]
    assert needed_shards(order, 0, 0, 8, slice(0, 8)) == []


@pytest.fixture(scope="module")
def wide_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 200 shards with 400 samples each in its manifest; the tars are empty, with matching sizes."""
    folder = tmp_path_factory.mktemp("wide")
    shards = tuple(ShardEntry(shard_name(number), 400, 0, f"{number:032x}", "0" * 32) for number in range(200))
    for shard in shards:
        (folder / shard.name).touch()
        (folder / index_name(shard.name)).touch()
    Manifest(shards, {}).save(folder)
    return folder


@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("start_step", [0, 5])
@pytest.mark.parametrize("limit", ["train.max_steps=13", "train.epochs=0.0051", "train.epochs=1.001"])
def test_the_shards_that_a_node_reads_are_those_that_are_staged(
    wide_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, start_step: int, limit: str
) -> None:
    size = ["train.global_batch_size=1600", "train.micro_batch_size=100"] if "1.001" in limit else ["train.global_batch_size=32"]
    settings = [f"data.shards={wide_corpus}", f"output={tmp_path}", "data.group_size=4", "train.max_steps=0", limit, *size]
    config = parse_overrides(get_recipe("debug"), settings)
    if start_step:
        (tmp_path / "checkpoints" / f"step-{start_step:07d}").mkdir(parents=True)
    train, names = config.train, [f"n{number}" for number in range(nodes)]
    steps = TrainingProgress(train, 80_000).total_steps
    assert (steps is not None and steps * train.global_batch_size > 80_000 * train.epochs - 1) or train.max_steps == steps
    staged: list[list[int]] = []

    def stop_at_staging(source: Path, scratch: Path, job: str, needed: list[int], limit_bytes: int) -> None:
        staged.append(needed)
        raise OSError("recorded")

    monkeypatch.setattr("albef_ds.launch.slurm.staging.stage", stop_at_staging)
    for rank, name in enumerate(names):
        shards_here(config, {"SLURMD_NODENAME": name, "ALBEF_NODES": " ".join(names), "ALBEF_SCRATCH": str(tmp_path / "disk")})
        share = Share(rank, nodes, start_position=start_step * train.global_batch_size)
        read = shards_read(config, share, (steps - start_step) * train.global_batch_size // nodes // train.micro_batch_size)
        assert staged[-1] == read, "the same shards, in the order in which they are first read"


def shards_read(config: RunConfig, share: Share, num_batches: int) -> list[int]:
    """Shards that the training stream asks for in its first `num_batches` micro-batches."""
    stream = ImageTextStream(config, share)
    found: dict[int, None] = {}
    for start in islice(stream._sampler, num_batches):
        for position in range(start, start + config.train.micro_batch_size):
            found.setdefault(stream._dataset.order.locate(position)[0])
    return list(found)


def test_scratch_that_cannot_be_used_falls_back_to_the_shared_folder(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    config = parse_overrides(get_recipe("debug"), [f"data.shards={corpus}", f"output={tmp_path / 'run'}"])
    environment = {"SLURMD_NODENAME": "n1", "ALBEF_NODES": "n1 n2", "SLURM_JOB_ID": "7"}
    assert shards_here(config, environment) == str(corpus)
    assert shards_here(config, {**environment, "ALBEF_SCRATCH": str(tmp_path / "file" / "x")}) == str(corpus)
    assert "cannot be used" in capsys.readouterr().out
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    view = shards_here(config, {**environment, "ALBEF_SCRATCH": "$NODE_DISK"})
    assert view == str(tmp_path / "disk" / "albef-ds" / "views" / "7") and samples(Path(view)) == samples(corpus)
    with pytest.raises(ConfigError, match="ALBEF_SCRATCH_GB=much"):
        shards_here(config, {**environment, "ALBEF_SCRATCH": "$NODE_DISK", "ALBEF_SCRATCH_GB": "much"})
