"""Batches of annotated samples: the same for any number of ranks, with the labels and weights of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from albef_ds.common.errors import DataError, UserError
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import Batch, ClassificationBatch, ImageTextBatch, VqaBatch
from albef_ds.data.sample_kinds import QUESTIONS, STATEMENTS
from albef_ds.data.stream.annotated import annotated_stream
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.open import open_stream
from albef_ds.engine.build import build_task
from albef_ds.tasks.registry import kind_of
from tests.data_tools.scenes.tiny import tiny_config

TASKS = ("scenes_retrieval", "scenes_vqa", "scenes_nlvr", "scenes_entailment", "scenes_grounding")


def batches(config: RunConfig, count: int, rank: int = 0, world_size: int = 1, start: int = 0) -> list[Batch]:
    stream = annotated_stream(config, kind_of(config.task).samples, Share(rank, world_size, start))
    source = iter(stream)
    found = [next(source) for _ in range(count)]
    stream.close()
    return found


@pytest.mark.parametrize("recipe", TASKS)
def test_ranks_share_the_batch_that_one_rank_would_take_and_resume_is_exact(recipe: str, scenes: Path) -> None:
    whole = tiny_config(recipe, scenes, "data.crop_scale_min=0.5", "data.flip=true", "data.rand_augment=true")
    shared = replace(whole, train=replace(whole.train, micro_batch_size=2))
    # 8 batches of 4 run over the end of the shorter files.
    for number, one in enumerate(batches(whole, 8)):
        parts = [batches(shared, 1, rank, 2, start=4 * number)[0] for rank in (0, 1)]
        assert torch.equal(one.positions, torch.cat([part.positions for part in parts]))
        assert torch.equal(one.images.pixels, torch.cat([part.images.pixels for part in parts]))
        assert one.keys == (*parts[0].keys, *parts[1].keys)


def test_each_epoch_holds_every_sample_once(scenes: Path) -> None:
    config = tiny_config("scenes_entailment", scenes)
    keys = [key for batch in batches(config, 9) for key in batch.keys]
    assert sorted(keys[:18]) == sorted(keys[18:]) and len(set(keys[:18])) == 18


def test_labels_and_images_of_two_image_statements_stay_together(scenes: Path) -> None:
    rows = {row["images"][0]: row for row in json.loads((scenes / "nlvr_train.json").read_text())}
    for batch in batches(tiny_config("scenes_nlvr", scenes), 3):
        assert isinstance(batch, ClassificationBatch) and batch.images.pixels.shape == (4, 2, 32, 32, 4)
        assert [rows[key]["label"] == "True" for key in batch.keys] == batch.labels.bool().tolist()


def test_answers_come_in_a_row_with_their_weights_and_end_with_sep(scenes: Path, tmp_path: Path) -> None:
    rows = json.loads((scenes / "vqa_train.json").read_text())[:4]
    rows[0]["answer"] = ["red"] * 7 + ["blue"] * 3
    (tmp_path / "vqa.json").write_text(json.dumps(rows))
    config = tiny_config("scenes_vqa", scenes, f"data.annotations={tmp_path}/vqa.json")
    [batch] = batches(config, 1)
    assert isinstance(batch, VqaBatch)
    place = batch.keys.index(str(rows[0]["question_id"]))
    assert batch.answer_counts.tolist() == [2 if number == place else 1 for number in range(4)]
    first = int(batch.answer_counts[:place].sum())
    assert batch.answer_weights[first : first + 2].tolist() == pytest.approx([0.7, 0.3])
    last = batch.answer_mask.sum(dim=1) - 1
    assert set(batch.answer_ids.gather(1, last[:, None]).flatten().tolist()) == {3}  # [SEP] in vocab.txt
    assert (batch.token_ids != 3).all()  # questions carry none


def test_an_image_that_cannot_be_decoded_is_counted_and_replaced(scenes: Path, tmp_path: Path) -> None:
    rows = json.loads((scenes / "ve_train.json").read_text())
    for row in rows:
        target = tmp_path / row["image"]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((scenes / "images" / row["image"]).read_bytes())
    (tmp_path / rows[0]["image"]).write_bytes(b"no picture")
    config = tiny_config("scenes_entailment", scenes, f"data.image_root={tmp_path}", "data.max_broken=1")
    stream = annotated_stream(config, STATEMENTS, Share())
    source = iter(stream)
    keys = [key for _ in range(5) for key in next(source).keys]
    assert rows[0]["image"] not in keys and len(keys) == 20
    assert stream.broken_counts() == {
        "ve_train.json": {"undecodable picture": 1 + (keys[18:] != [])}
    } or stream.broken_counts() == {"ve_train.json": {"undecodable picture": 1}}


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("scenes_vqa", "data.image_root=", "data.image_root is empty"),
        ("scenes_vqa", "data.image_root=nowhere", "20 of 20 images are missing under data.image_root nowhere"),
        ("scenes_entailment", "task.num_classes=2", "set 3"),
        ("scenes_vqa", "data.annotations=", "is trained on annotation files"),
    ],
)
def test_what_cannot_be_trained_on_is_named_before_training(recipe: str, override: str, message: str, scenes: Path) -> None:
    with pytest.raises(UserError, match=message):
        config = tiny_config(recipe, scenes, override)
        open_stream(config, kind_of(config.task).samples)


def test_questions_without_answers_cannot_be_trained_on(scenes: Path) -> None:
    config = tiny_config("scenes_vqa", scenes, f"data.annotations={scenes}/v2_questions_val.json")
    with pytest.raises(DataError, match=r"15 of 15 questions .* have no answer"):
        open_stream(config, QUESTIONS)


@pytest.mark.parametrize("recipe", ["scenes_pretrain", *TASKS, "scenes_nlvr_pretrain"])
def test_a_mock_batch_and_a_real_one_pass_every_task(recipe: str, scenes: Path) -> None:
    from albef_ds.engine.build import attach_momentum

    config = tiny_config(recipe, scenes)
    task = build_task(config)
    attach_momentum(task, config)
    samples = kind_of(config.task).samples
    stream = open_stream(config, samples)
    real = next(iter(stream)).to(torch.device("cpu"))
    stream.close()
    mock = samples.mock(config)
    assert type(mock) is type(real) and isinstance(real, ImageTextBatch | ClassificationBatch | VqaBatch)
    for batch in (mock, real):
        losses, _ = task(batch, **task.schedule(1.0))
        assert torch.isfinite(task.total(losses))
        task.after_skipped_step()
