"""`albef-ds convert` and `albef-ds inspect` as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.names import bert_name, timm_name
from albef_ds.cli.main import main
from tests.checkpoint.formats.released_files import HEADS, state_dict
from tests.inference.tiny_models import model_folder, tiny_config, tiny_task, vocabulary


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A released retrieval file."""
    path = tmp_path / "ALBEF.pth"
    torch.save({"model": state_dict("retrieval"), "epoch": 7}, path)
    return path


def test_a_released_file_becomes_a_folder_and_a_released_file_again(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, again = tmp_path / "folder", tmp_path / "again.pth"
    arguments = ["--to", "folder", "--weights", "both", "--queues", "keep", *HEADS]
    assert main(["convert", str(released), str(folder), *arguments]) == 0
    said = capsys.readouterr().out
    assert "released, retrieval" in said and "not converted: epoch" in said
    assert "(100.0% of the source's numbers); read back and equal" in said and "sha256" in said
    assert main(["convert", str(folder), str(again), "--to", "released"]) == 0
    assert "2 not converted: queue.caption_ids, queue.filled" in capsys.readouterr().out
    theirs = torch.load(again, weights_only=True)["model"]
    assert theirs.keys() == state_dict("retrieval").keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in state_dict("retrieval").items())


def test_a_folder_takes_the_students_weights_unless_told_otherwise(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(released), str(tmp_path / "folder"), "--to", "folder", *HEADS]) == 0
    assert "not converted: momentum." in capsys.readouterr().out
    model = read_model(tmp_path / "folder").model
    assert not model.part("momentum.") and not model.part("queue.")


def test_a_dry_run_prints_the_mapping_and_writes_nothing(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["convert", str(released), str(tmp_path / "m.safetensors"), "--to", "safetensors", "--dry-run", *HEADS]) == 0
    said = capsys.readouterr().out
    assert "  temp  ->  temperature  [1] float32" in said
    assert "nothing was written" in said and sorted(tmp_path.iterdir()) == before


def test_mistakes_are_one_line_and_exit_code_2(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["convert", str(released), str(tmp_path / "m.pth"), "--to", "safetensors", *HEADS], "does not end in .safetensors"),
        (["convert", str(released), str(tmp_path / "m.safetensors"), "--to", "safetensors"], "give model.vision.num_heads=N"),
        (["convert", str(tmp_path / "no.pth"), str(tmp_path / "m.pth"), "--to", "released"], "does not exist"),
        (["convert", str(released), str(tmp_path / "m.pth"), "--to", "gguf"], "invalid choice"),
        (["convert", str(released), str(released), "--to", "released", *HEADS], "exists: give another name, or overwrite it"),
        (["inspect", str(tmp_path)], "holds no model.safetensors"),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_inspect_says_what_a_model_is(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(released), *HEADS]) == 0
    said = capsys.readouterr().out
    for part in ("a model of kind retrieval", "64 px, patches of 16", "2 + 2 layers of width 64", "queue        64 features"):
        assert part in said, said
    assert "momentum     yes" in said and "epoch 7" in said and "sha256" in said
    assert "released, lavis, safetensors, folder" in said
    folder = model_folder(tmp_path, "vqa")
    assert main(["inspect", str(folder), "--tensors"]) == 0
    said = capsys.readouterr().out
    assert "model folder, a model of kind vqa" in said and "serves       answer" in said
    assert "base.decoder.mlm_head.dense.weight  [24, 24] float32" in said


def test_a_vit_and_a_bert_make_the_start_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config("pretrain", vocabulary(tmp_path))
    state = dict(tiny_task(config).model.named_parameters())
    vit = {theirs: state[name].detach() for name in state if (theirs := timm_name(name))}
    bert = {theirs: state[name].detach() for name in state if (theirs := bert_name(name, 2)) and "crossattention" not in theirs}
    torch.save(vit, tmp_path / "vit.pth")
    torch.save(bert, tmp_path / "bert.bin")
    vision, text = config.model.vision, config.model.text
    settings = [
        f"model.vision.{name}={getattr(vision, name)}" for name in ("image_size", "patch_size", "width", "depth", "num_heads")
    ]
    settings += [
        f"model.text.{name}={getattr(text, name)}"
        for name in ("vocab_size", "width", "num_layers", "num_fusion_layers", "num_heads", "intermediate_width", "max_positions")
    ]
    arguments = ["--to", "folder", "--bert", str(tmp_path / "bert.bin"), f"data.vocab_file={config.data.vocab_file}", *settings]
    assert main(["convert", str(tmp_path / "vit.pth"), str(tmp_path / "start"), *arguments]) == 0
    model = read_model(tmp_path / "start").model
    assert torch.equal(model.tensors["base.albef.visual_encoder.norm.weight"].read(), state["visual_encoder.norm.weight"])
    name = "multimodal_encoder.layers.1.self_attention.query.weight"
    assert torch.equal(model.tensors[f"base.albef.{name}"].read(), state[name])
    assert model.lineage[0]["what"] == "initial weights" and model.lineage[0]["bert"] == "bert.bin"
    assert main(["inspect", str(tmp_path / "vit.pth")]) == 0
    assert "a ViT or DeiT file: init.visual_encoder" in capsys.readouterr().out
