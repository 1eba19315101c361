"""The same samples on any number of ranks and workers, and after a resume."""

from __future__ import annotations

import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from albef_ds.common.errors import ConfigError, DataError, UserError
from albef_ds.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig, VisionConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.sample_kinds import PAIRS
from albef_ds.data.shards.format import Manifest
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.open import open_stream
from albef_ds.data.stream.samples import stable_id

GLOBAL = 12
SMALL = ModelConfig(vision=VisionConfig(image_size=16))
CHOSEN = ("max_broken", "rand_augment", "cache", "cache_gb", "window")


def stream(folder: Path | str, *, workers: int = 0, micro: int = 4, **settings: Any) -> ImageTextStream:
    chosen = {name: settings.pop(name) for name in CHOSEN if name in settings}
    data = DataConfig(shards=str(folder), num_workers=workers, **chosen)
    train = TrainConfig(seed=3, micro_batch_size=micro, global_batch_size=GLOBAL)
    return ImageTextStream(RunConfig(model=SMALL, data=data, train=train), Share(**settings))


def take(source: ImageTextStream, batches: int) -> list[ImageTextBatch]:
    try:
        return list(islice(source, batches))
    finally:
        source.close()


def by_position(batches: list[ImageTextBatch]) -> dict[int, tuple[Any, ...]]:
    """Returns every field of each sample, texts without padding."""
    rows = {}
    for batch in batches:
        for i, position in enumerate(batch.positions.tolist()):
            assert position not in rows
            length = int(batch.token_mask[i].sum())
            text = [ids[i, :length].tolist() for ids in (batch.token_ids, batch.masked_ids, batch.mlm_labels)]
            rows[position] = (
                batch.keys[i],
                batch.images.pixels[i].numpy().tobytes(),
                text,
                int(batch.image_ids[i]),
                int(batch.caption_ids[i]),
            )
    return rows


def run(
    folder: Path | str, steps: int, *, world_size: int, micro: int, start: int = 0, **settings: Any
) -> dict[int, tuple[Any, ...]]:
    per_rank = steps * GLOBAL // world_size // micro
    batches: list[ImageTextBatch] = []
    for rank in range(world_size):
        source = stream(folder, micro=micro, rank=rank, world_size=world_size, start_position=start, **settings)
        batches += take(source, per_rank)
    return by_position(batches)


def test_samples_do_not_depend_on_ranks_workers_or_accumulation(make_corpus: Any) -> None:
    folder = make_corpus()
    whole = run(folder, 4, world_size=1, micro=12)
    assert sorted(whole) == list(range(48))
    assert run(folder, 4, world_size=2, micro=3, workers=2) == whole
    assert run(folder, 4, world_size=3, micro=2) == whole


def test_spawned_workers_give_the_same_samples(make_corpus: Any) -> None:
    folder = make_corpus()
    settings = {"world_size": 1, "rand_augment": False}  # it would import timm once more, which takes seconds
    assert run(folder, 1, micro=6, workers=1, start_method="spawn", **settings) == run(folder, 1, micro=12, **settings)


def test_resuming_at_another_world_size_goes_on_exactly(make_corpus: Any) -> None:
    folder = make_corpus()
    whole = run(folder, 6, world_size=1, micro=6)
    resumed = run(folder, 3, world_size=4, micro=3, start=3 * GLOBAL)
    assert resumed == {position: row for position, row in whole.items() if position >= 3 * GLOBAL}


def test_an_epoch_drops_and_repeats_nothing_across_its_end(make_corpus: Any) -> None:
    keys = {position: row[0] for position, row in run(make_corpus(23), 4, world_size=2, micro=6).items()}
    for epoch in range(2):
        assert sorted(keys[p] for p in range(23 * epoch, 23 * (epoch + 1))) == [f"{n:09d}" for n in range(23)]
    assert [keys[p] for p in range(23)] != [keys[p] for p in range(23, 46)]


def test_every_rank_has_batches_of_full_size(make_corpus: Any) -> None:
    for batch in take(stream(make_corpus(23), micro=4), 9):
        assert len(batch) == 4 and batch.images.pixels.shape == (4, 16, 16, 4)
        assert (batch.token_ids[:, 0] == 101).all() and ((batch.mlm_labels >= 0).sum(1) >= 1).all()
        assert not batch.token_ids[~batch.token_mask].any() and (batch.mlm_labels[~batch.token_mask] == -100).all()


def test_all_captions_of_a_sample_are_drawn_and_ids_name_text_and_image(make_corpus: Any) -> None:
    rows = [row for row in run(make_corpus(2), 4, world_size=1, micro=12).values() if row[0] == "000000001"]
    assert {row[4] for row in rows} == {stable_id("a dog number 1"), stable_id("the cat of 1")}
    assert {row[3] for row in rows} == {stable_id("id1")}
    assert all(0 <= row[3] < 2**63 for row in rows)


BROKEN = {3: {"image": b"no picture"}, 8: {"captions": ["?!"]}, 14: {"captions": ["\u200d"]}}


def test_broken_samples_are_counted_and_replaced_the_same_everywhere(make_corpus: Any) -> None:
    folder = make_corpus(23, broken=BROKEN)
    one = stream(folder, micro=12, max_broken=0.5)
    batches = take(one, 4)
    whole = by_position(batches)
    assert sorted(whole) == list(range(48)) and not {"000000003", "000000008", "000000014"} & {row[0] for row in whole.values()}
    assert run(folder, 4, world_size=2, micro=3, workers=1, max_broken=0.5) == whole
    # 48 positions are two epochs of 23 and two more samples, which are good with this seed.
    assert one.broken_counts() == {
        "00000.tar": {"undecodable picture": 2},
        "00001.tar": {"empty caption": 2},
        "00002.tar": {"empty caption": 2},
    }


def test_broken_samples_met_while_looking_for_a_substitute_are_not_counted_twice(make_corpus: Any) -> None:
    source = stream(make_corpus(24, broken={number: {"image": b"no"} for number in range(12)}), micro=12, max_broken=0.9)
    take(source, 2)
    assert sum(sum(reasons.values()) for reasons in source.broken_counts().values()) == 12


def test_too_many_broken_samples_stop_the_run_and_name_the_worst_shard(make_corpus: Any) -> None:
    broken = {3: {"captions": ["."]}, 7: {"image": b"no"}, 8: {"image": b"no"}, 9: {"image": b"no"}}
    with pytest.raises(
        DataError, match=r"of 24 samples .* most in 00001.tar \(\d, mainly undecodable picture, .* 00000000[789]\)"
    ) as caught:
        take(stream(make_corpus(23, broken=broken), micro=12), 20)
    assert "\n" not in str(caught.value)


def test_workers_report_an_error_as_one_line(make_corpus: Any) -> None:
    folder = make_corpus(5)
    source = stream(folder, micro=12, workers=1)
    (folder / "00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"00000\.tar ends early") as caught:
        take(source, 1)
    assert "\n" not in str(caught.value)


def test_a_corpus_of_broken_samples_ends_instead_of_searching_forever(make_corpus: Any) -> None:
    folder = make_corpus(5, broken={number: {"image": b"no picture"} for number in range(5)})
    with pytest.raises(DataError, match="100 samples in a row are broken"):
        take(stream(folder, max_broken=1.0), 1)


def test_missing_shards_are_listed(make_corpus: Any) -> None:
    folder = make_corpus()
    (folder / "00001.tar").unlink()
    (folder / "00003.tar").unlink()
    with pytest.raises(DataError, match=r"2 of 5 shards are missing .*: 00001\.tar, 00003\.tar"):
        stream(folder)


def test_a_truncated_tar_is_named_before_training_starts(make_corpus: Any) -> None:
    folder = make_corpus()
    path = folder / "00002.tar"
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=r"00002\.tar is truncated"):
        stream(folder)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    Manifest(()).save(tmp_path)
    with pytest.raises(DataError, match="lists no samples"):
        stream(tmp_path)


def test_open_stream_chooses_by_what_is_named(make_corpus: Any, tmp_path: Path) -> None:
    train = TrainConfig(micro_batch_size=4, global_batch_size=8)

    def opened(shards: str) -> Any:
        return open_stream(RunConfig(data=DataConfig(shards=shards), train=train), PAIRS)

    folder = make_corpus()
    assert opened(str(folder)).num_samples == 23
    assert opened(str(folder / "00000.tar")).num_samples is None
    for shards, problem in (("", "is empty"), (str(tmp_path / "nowhere"), "does not exist")):
        with pytest.raises(UserError, match=problem):
            opened(shards)


def test_batch_sizes_that_do_not_come_out_even_are_refused(make_corpus: Any) -> None:
    with pytest.raises(ConfigError, match="not a multiple"):
        stream(make_corpus(), micro=5)


def test_workers_ignore_the_signals_meant_for_the_trainer_and_end_with_the_stream(make_corpus: Any) -> None:
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    before = listed.read_text().split()  # ranks that other tests keep
    source = stream(make_corpus(), micro=4, workers=1)
    batches = iter(source)
    next(batches)
    children = [int(pid) for pid in listed.read_text().split() if pid not in before]
    workers = [pid for pid in children if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert len(list(islice(batches, 8))) == 8
    source.close()
    left = listed.read_text().split()
    assert not {str(pid) for pid in workers} & set(left)


def test_batches_keep_tensors_of_the_promised_types(make_corpus: Any) -> None:
    (batch,) = take(stream(make_corpus()), 1)
    moved = batch.to(torch.device("cpu"))
    pixels = batch.images.pixels
    assert pixels.dtype == torch.uint8 and moved.images.dtype == torch.float32 and batch.token_mask.dtype == torch.bool
    assert moved.images.shape == (len(batch), 3, *pixels.shape[1:3]) and abs(float(moved.images.mean())) < 3
    assert all(
        t.dtype == torch.int64 for t in (batch.token_ids, batch.masked_ids, batch.mlm_labels, batch.image_ids, batch.positions)
    )
