"""One safetensors file, model folders, precisions, shards, and what is done so that a destination is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.formats.write import Options, convert, mapping
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.checkpoint.tensor_files.safetensors_form import open_safetensors, write_safetensors
from albef_ds.common.errors import ConfigError, MachineError, UserError, WeightsError
from albef_ds.data.text.tokenizer import CaptionTokenizer
from tests.checkpoint.formats.released_files import HEADS, state_dict


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A released retrieval file."""
    path = tmp_path / "source.pth"
    torch.save({"model": state_dict("retrieval")}, path)
    return path


def equal(left: WholeModel, right: WholeModel) -> bool:
    """Same names and values."""
    return left.tensors.keys() == right.tensors.keys() and all(
        torch.equal(left.tensors[name].read(), right.tensors[name].read()) for name in left.tensors
    )


def test_a_model_folder_holds_all_that_using_it_takes_and_comes_back(source: Path, tmp_path: Path) -> None:
    found = read_model(source, HEADS)
    written = convert(found, tmp_path / "folder", Options("folder", weights="both"))
    folder = tmp_path / "folder"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "vocab.txt", "preprocessor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "README.md"),
    }
    assert written.files == (folder,)
    again = read_model(folder).model
    assert equal(again, found.model)
    assert again.config.model == found.model.config.model and again.config.task == found.model.config.task
    assert [step["what"] for step in again.lineage] == ["released file", "converted"]
    texts = ["Two <person>s on a mat.", "the cat " * 30]
    tokenizer, own = (
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        CaptionTokenizer.from_config(again.config.evaluation_data),
    )
    assert [tokenizer.encode(text).ids for text in texts] == [own.read(text)[1].tolist() for text in texts]
    card = (folder / "README.md").read_text()
    assert "Captions are cleaned before they are numbered: lower case" in card
    assert f"{found.model.parameters:,}" in card and "source.pth" in card
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"height": 64, "width": 64}


def test_the_file_is_one_that_the_safetensors_library_reads(source: Path, tmp_path: Path) -> None:
    model = read_model(source, HEADS).model
    convert(read_model(source, HEADS), tmp_path / "m.safetensors", Options("safetensors"))
    loaded = load_file(tmp_path / "m.safetensors")
    assert loaded.keys() == model.tensors.keys()
    assert all(torch.equal(loaded[name], model.tensors[name].read()) for name in loaded)


def test_precisions_are_kept_or_changed_as_asked(source: Path, tmp_path: Path) -> None:
    model = read_model(source, HEADS).model
    for dtype, expected in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        path = tmp_path / f"{dtype}.safetensors"
        convert(read_model(source, HEADS), path, Options("safetensors", dtype=dtype))
        again = read_model(path).model
        for name, tensor in again.tensors.items():
            assert torch.equal(
                tensor.read(), model.tensors[name].read().to(expected if tensor.dtype.is_floating_point else tensor.dtype)
            )
    convert(read_model(tmp_path / "bf16.safetensors"), tmp_path / "kept.pth", Options("released"))
    kept = torch.load(tmp_path / "kept.pth", weights_only=True)["model"]
    assert kept["itm_head.weight"].dtype == torch.bfloat16 and kept["temp"].shape == ()


def test_a_weight_too_large_for_fp16_is_refused(tmp_path: Path) -> None:
    tensors = state_dict("ve")
    tensors["cls_head.0.weight"] = tensors["cls_head.0.weight"] + 1e5
    torch.save(tensors, tmp_path / "large.pth")
    with pytest.raises(ConfigError, match="not finite in fp16: take bf16"):
        convert(read_model(tmp_path / "large.pth", HEADS), tmp_path / "m.safetensors", Options("safetensors", dtype="fp16"))
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("form", ["safetensors", "folder"])
def test_large_models_are_cut_into_shards_with_an_index(source: Path, tmp_path: Path, form: str) -> None:
    found = read_model(source, HEADS)
    name = "m.safetensors" if form == "safetensors" else "m"
    written = convert(found, tmp_path / name, Options(form, weights="both", max_shard_bytes=300_000))  # type: ignore[arg-type]
    parts = sorted((tmp_path / "m" if form == "folder" else tmp_path).glob("*-of-*.safetensors"))
    assert len(parts) > 3 and all(part.stat().st_size < 400_000 for part in parts)
    assert equal(read_model(written.files[0]).model, found.model)
    parts[1].unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        read_model(written.files[0])


def test_nothing_is_left_where_a_conversion_fails(source: Path, tmp_path: Path) -> None:
    found = read_model(source, HEADS)
    broken = dict(found.model.tensors)

    def fail() -> torch.Tensor:
        raise UserError("the disk is gone: mount it")

    name = "itm_head.bias"
    broken[name] = LazyTensor(broken[name].shape, broken[name].dtype, fail)
    before = sorted(tmp_path.iterdir())
    for form, target in (("safetensors", "m.safetensors"), ("released", "m.pth"), ("folder", "m")):
        model = WholeModel(found.model.config, broken)
        with pytest.raises(UserError, match="the disk is gone"):
            convert(type(found)(model, found.form, found.path), tmp_path / target, Options(form))  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_a_source_that_changes_while_it_is_converted_is_found_by_reading_back(source: Path, tmp_path: Path) -> None:
    found = read_model(source, HEADS)
    changing, reads = dict(found.model.tensors), iter(range(1000))
    steady = changing["itm_head.weight"]
    changing["itm_head.weight"] = steady.then(lambda tensor: tensor + next(reads))
    model = WholeModel(found.model.config, changing)
    with pytest.raises(MachineError, match=r"does not read back as it was written \(itm_head.weight\)"):
        convert(type(found)(model, found.form, found.path), tmp_path / "m.safetensors", Options("safetensors"))
    assert not (tmp_path / "m.safetensors").exists()


def test_what_exists_is_replaced_only_when_asked_and_only_by_its_like(source: Path, tmp_path: Path) -> None:
    found = read_model(source, HEADS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("keep")
    with pytest.raises(MachineError, match="mine exists"):
        convert(found, tmp_path / "mine", Options("folder"))
    with pytest.raises(MachineError, match="not a model folder"):
        convert(found, tmp_path / "mine", Options("folder", overwrite=True))
    assert (tmp_path / "mine" / "diary.txt").read_text() == "keep"
    convert(found, tmp_path / "m", Options("folder"))
    convert(found, tmp_path / "m", Options("folder", dtype="bf16", overwrite=True))
    assert read_model(tmp_path / "m").model.tensors["itm_head.weight"].dtype == torch.bfloat16
    with pytest.raises(ConfigError, match=r"does not end in \.safetensors"):
        convert(found, tmp_path / "m.bin", Options("safetensors"))
    with pytest.raises(MachineError, match="is not a folder"):
        convert(found, tmp_path / "absent" / "m.pth", Options("released"))


def test_the_mapping_names_every_tensor_on_all_three_sides(source: Path) -> None:
    model = read_model(source, HEADS).model
    rows = {ours: (there, here) for there, ours, here, _ in mapping(model, Options("released"))}
    assert (
        rows["base.albef.multimodal_encoder.layers.1.cross_attention.key_value.key.weight"]
        == ("text_encoder.encoder.layer.3.crossattention.self.key.weight",) * 2
    )
    assert rows["momentum.albef.vision_proj.bias"] == ("vision_proj_m.bias", "vision_proj_m.bias")
    assert len(rows) == len(model.tensors) - 2  # ids of captions and the fill have no room there


def test_damaged_and_foreign_files_are_one_clear_line(source: Path, tmp_path: Path) -> None:
    convert(read_model(source, HEADS), tmp_path / "m.safetensors", Options("safetensors"))
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[:-100])
    (tmp_path / "noise.pth").write_bytes(b"no weights at all")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "index.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../m.safetensors"}}))
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        ("short.safetensors", "cannot be read as weights"),
        ("noise.pth", "cannot be read as weights"),
        ("foreign.safetensors", "is not a whole ALBEF model"),
        ("index.safetensors.index.json", "points outside its folder"),
        ("list.pth", "holds no state dict"),
        ("absent.pth", "does not exist"),
    ):
        with pytest.raises(WeightsError, match=message) as error:
            read_model(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)


def test_a_file_of_a_later_version_is_refused(source: Path, tmp_path: Path) -> None:
    convert(read_model(source, HEADS), tmp_path / "m.safetensors", Options("safetensors"))
    stored = open_safetensors(tmp_path / "m.safetensors")
    write_safetensors(tmp_path / "n.safetensors", stored.tensors, {"format": "albef_ds", "version": "2"}, checksums=True)
    with pytest.raises(WeightsError, match="is of format 2"):
        read_model(tmp_path / "n.safetensors")


def test_settings_that_change_shapes_are_refused(source: Path) -> None:
    with pytest.raises(WeightsError, match=r"has shape \(200, 64\), .* in a retrieval model \(100, 64\)"):
        read_model(source, [*HEADS, "model.text.vocab_size=100"])
