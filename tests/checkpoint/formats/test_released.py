"""Released files of every kind: there and back again, tensor by tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.checkpoint.initial.load import load_initial_momentum, load_initial_weights
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.config.schema import EngineConfig, InitConfig, RetrievalConfig
from albef_ds.engine.build import attach_momentum, build_task
from tests.checkpoint.formats.released_files import HEADS, KINDS, base_state_dict, same, state_dict, with_bert, without_bert

TASK_KIND = {"nlvr": "classification", "ve": "classification"}


def saved(path: Path, tensors: dict[str, Tensor], **beside: object) -> Path:
    torch.save({"model": tensors, **beside} if beside else tensors, path)
    return path


def tensors_in(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True)
    return dict(content.get("model", content))


def round_trip(source: Path, overrides: tuple[str, ...] = HEADS) -> Path:
    """Released -> one safetensors file -> released."""
    middle, last = source.with_suffix(".safetensors"), source.with_name(f"{source.stem}-again.pth")
    convert(read_model(source, overrides), middle, Options("safetensors"))
    convert(read_model(middle), last, Options("released"))
    return last


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_file_of_every_kind_comes_back_equal(tmp_path: Path, kind: str) -> None:
    tensors = state_dict(kind)
    source = saved(tmp_path / "model.pth", tensors)
    found = read_model(source, HEADS)
    assert found.model.kind == TASK_KIND.get(kind, kind)
    assert getattr(found.model.config.task, "num_images", 1) == (2 if kind == "nlvr" else 1)
    assert same(tensors_in(round_trip(source)), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_size_file_of_every_kind_needs_no_settings(tmp_path: Path, kind: str) -> None:
    tensors = base_state_dict(kind)
    source = saved(tmp_path / "model.pth", tensors, epoch=29)
    model = read_model(source).model
    assert (model.config.model.vision.image_size, model.config.model.vision.num_heads) == (256, 12)
    assert (model.config.model.text.num_layers, model.config.model.text.num_fusion_layers) == (6, 6)
    assert 200e6 < model.parameters < 360e6
    if kind == "pretrain":  # the others take the way of their smaller files below, half a gigabyte each is spared
        assert same(tensors_in(round_trip(source, ())), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_base_width_comes_back_equal_without_settings(tmp_path: Path, kind: str) -> None:
    tensors = base_state_dict(kind, slim=True)
    source = saved(tmp_path / "model.pth", tensors, epoch=29)
    assert read_model(source).model.config.model.text.num_heads == 12
    assert same(tensors_in(round_trip(source, ())), tensors)


def test_the_training_dict_and_the_bert_prefix_of_the_source_are_written_again(tmp_path: Path) -> None:
    wrapped = saved(tmp_path / "wrapped.pth", with_bert(state_dict("retrieval")), epoch=4, optimizer={"state": {}})
    again = round_trip(wrapped)
    assert "model" in torch.load(again, weights_only=True)
    assert same(tensors_in(again), with_bert(state_dict("retrieval")))
    bare = round_trip(saved(tmp_path / "bare.pth", without_bert(state_dict("pretrain"))))
    assert "model" not in torch.load(bare, weights_only=True)
    assert same(tensors_in(bare), without_bert(state_dict("pretrain")))


def test_lavis_gets_its_own_layout(tmp_path: Path) -> None:
    for kind, prefix in (("pretrain", "text_encoder.bert.embeddings"), ("retrieval", "text_encoder.embeddings")):
        source = saved(tmp_path / f"{kind}.pth", with_bert(without_bert(state_dict(kind))))
        there = tmp_path / f"lavis-{kind}.pth"
        convert(read_model(source, HEADS), there, Options("lavis"))
        content = torch.load(there, weights_only=True)
        assert f"{prefix}.word_embeddings.weight" in content["model"]
        assert same(without_bert(content["model"]), without_bert(state_dict(kind)))


def test_only_the_students_weights_may_be_in_a_file(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in state_dict("pretrain").items() if "_m." not in name}
    source = saved(tmp_path / "model.pth", tensors)
    assert same(tensors_in(round_trip(source)), tensors)
    with pytest.raises(ConfigError, match="no momentum copy"):
        convert(read_model(source, HEADS), tmp_path / "m.safetensors", Options("safetensors", weights="momentum"))


def test_the_momentum_copy_takes_the_students_place_when_asked(tmp_path: Path) -> None:
    tensors = state_dict("retrieval")
    source = saved(tmp_path / "model.pth", tensors)
    convert(read_model(source, HEADS), tmp_path / "m.pth", Options("released", weights="momentum", queues=False))
    got = tensors_in(tmp_path / "m.pth")
    assert torch.equal(got["vision_proj.weight"], tensors["vision_proj_m.weight"])
    assert torch.equal(got["itm_head.weight"], tensors["itm_head.weight"])
    assert not [name for name in got if "_m." in name or "queue" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("visual_encoder.blocks.1.mlp.fc1.bias"), "lacks 1 tensors .*blocks.1.mlp.fc1.bias"),
        (lambda d: d.update(audio=torch.zeros(2)), r"without a place in a pretrain model \(audio\)"),
        (lambda d: d.update({"itm_head.bias": torch.zeros(3)}), r"itm_head.bias has shape \(3,\), in a pretrain model \(2,\)"),
        (lambda d: d.update({"text_encoder.cls.predictions.decoder.weight": torch.zeros(200, 64)}), "differ: .* ties them"),
        (lambda d: d.pop("queue_ptr"), "without queue_ptr"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_by_the_tensors_name(tmp_path: Path, change: object, message: str) -> None:
    tensors = state_dict("pretrain")
    change(tensors)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        read_model(saved(tmp_path / "model.pth", tensors), HEADS)


def test_the_number_of_heads_is_asked_for_where_shapes_do_not_tell(tmp_path: Path) -> None:
    source = saved(tmp_path / "model.pth", state_dict("ve"))
    with pytest.raises(ConfigError, match=r"give model\.vision\.num_heads=N"):
        read_model(source)


def test_a_run_starts_from_a_released_file_directly(tmp_path: Path) -> None:
    source = saved(tmp_path / "ALBEF.pth", state_dict("pretrain"))
    model = read_model(source, HEADS).model
    config = replace(model.config, init=InitConfig(checkpoint=str(source)), task=RetrievalConfig(queue_size=4))
    task = build_task(config)
    assert load_initial_weights(task, config)[0].startswith("weights: ")
    attach_momentum(task, replace(config, engine=EngineConfig(kind="local", momentum_storage="dense")))
    assert "tensors from the checkpoint" in load_initial_momentum(task, config)[0]
    for name, parameter in task.named_parameters():
        assert torch.equal(parameter, model.tensors[name].read()), name
    for name, parameter in task.momentum.parameters():
        assert torch.equal(parameter, model.tensors[f"momentum.{name}"].read()), name
    other = replace(config, model=replace(config.model, text=replace(config.model.text, num_heads=2)))
    convert(read_model(source, HEADS), tmp_path / "m.safetensors", Options("safetensors"))
    other = replace(other, init=InitConfig(checkpoint=str(tmp_path / "m.safetensors")))
    with pytest.raises(ConfigError, match=r"set model\.text\.num_heads=4"):
        load_initial_weights(build_task(other), other)


class _Payload:
    """What an attacker puts into a file: unpickled by the ordinary way it would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_planted_payload_is_refused_and_nothing_runs(tmp_path: Path, place: str) -> None:
    trace = tmp_path / "it-ran"
    tensors: dict[str, object] = dict(state_dict("ve"))
    payload = _Payload(trace)
    content = {"model": tensors, "config": payload} if place == "beside" else {**tensors, "more": payload}
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="nothing of it was run"):
        read_model(path, HEADS)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the payload was a real one
