"""Compares exported towers and matcher with the model itself, and retrieves with them in the demonstration's corpus."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.cli.demo.corpus import emoji_corpus
from albef_ds.cli.main import main
from albef_ds.common.errors import MachineError, WeightsError
from albef_ds.config.schema import DataConfig, ModelConfig
from albef_ds.data.evaluation_sets.corpus import RetrievalSet
from albef_ds.inference import model as interface
from albef_ds.inference.export.programs import TOLERANCE, export, run_onnx
from albef_ds.metrics.ranking import DirectionScores
from tests.inference.tiny_models import found, model_folder, picture, tiny_config, tiny_task, vocabulary

TEXTS = ["a red cup", "the blue ball is left of the dog", "two cats", "the table"]
SIZE, SHORTLIST = 60, 8
"""Number of images in the retrieval, and of those that the matcher re-ranks per caption."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and its output of `albef-ds export`."""
    room = tmp_path_factory.mktemp("export")
    small = tiny_config("retrieval", vocabulary(room))
    shallow = ModelConfig(
        vision=replace(small.model.vision, depth=1),
        text=replace(small.model.text, vocab_size=30522, num_layers=1),
        embed_dim=small.model.embed_dim,
    )
    config, folder = replace(small, model=shallow, data=DataConfig()), room / "model"
    convert(found(tiny_task(config), config), folder, Options("folder"))
    assert main(["export", str(folder), str(room / "exported")]) == 0
    return folder, room / "exported"


def test_programs_agree_with_the_model_for_any_batch_and_length(folders: tuple[Path, Path]) -> None:
    folder, exported = folders
    model = interface.load(folder, device="cpu")
    pictures = [picture(seed) for seed in range(5)]
    images, (ids, mask) = model.prepare_images(pictures), model.prepare_texts(TEXTS)
    expected_images, expected_texts = model.encode_image(pictures), model.encode_text(TEXTS)
    expected_match = model.match(pictures[:4], TEXTS)
    image_features, image_embeds = run_onnx(exported / "image.onnx", {"images": images})
    text_features, text_embeds = run_onnx(exported / "text.onnx", {"token_ids": ids, "token_mask": mask})
    inputs = {"image_embeds": image_embeds[:4], "text_embeds": text_embeds, "token_mask": mask}
    [match] = run_onnx(exported / "match.onnx", inputs)
    for got, expected in ((image_features, expected_images), (text_features, expected_texts), (match, expected_match)):
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
    one = run_onnx(exported / "image.onnx", {"images": images[:1]})[0]
    torch.testing.assert_close(one, expected_images[:1], atol=TOLERANCE, rtol=0)
    programs = {name: torch.export.load(exported / f"{name}.pt2").module() for name in ("image", "text", "match")}
    with torch.no_grad():
        features, embeds = programs["image"](images)
        words, word_embeds = programs["text"](ids, mask)
        torch.testing.assert_close(features, expected_images, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(words, expected_texts, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(programs["match"](embeds[:4], word_embeds, mask), expected_match, atol=TOLERANCE, rtol=0)


def test_the_folder_says_how_inputs_are_prepared(folders: tuple[Path, Path]) -> None:
    _, exported = folders
    for name in ("config.json", "preprocessor_config.json", "vocab.txt", "README.md"):
        assert (exported / name).is_file(), name


def test_what_cannot_be_exported_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vqa = read_model(model_folder(tmp_path, "vqa")).model
    with pytest.raises(WeightsError, match="of kind vqa has no image and text tower"):
        export(vqa, tmp_path / "out", ["torch"])
    with pytest.raises(MachineError, match="exists: give another name"):
        export(vqa, tmp_path, ["torch"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MachineError, match=r"pip install albef-ds\[onnx\]"):
        export(vqa, tmp_path / "out", ["onnx"])
    assert not (tmp_path / "out").exists()


def _scores(image_feat: Tensor, text_feat: Tensor, margins: Tensor, shortlist: Tensor, owner: Tensor) -> DirectionScores:
    """Retrieves images with captions as queries."""
    return DirectionScores(text_feat @ image_feat.T, owner, torch.arange(len(image_feat)), 0.07, shortlist, margins)


def test_retrieval_over_the_demo_corpus_ranks_as_the_model_does(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder, exported = folders
    model = interface.load(folder, device="cpu")
    data = RetrievalSet(emoji_corpus(tmp_path) / "test", model.config.data, model.config.model.vision.image_size, limit=SIZE)
    images = data.images(range(data.num_images))
    [(ids, mask)] = data.text_batches(1000)

    image_feat, image_embeds = run_onnx(exported / "image.onnx", {"images": images})
    text_feat, text_embeds = run_onnx(exported / "text.onnx", {"token_ids": ids, "token_mask": mask})
    theirs_image, theirs_text = model.encode_image(images), model.encode_text(data.captions)
    shortlist = (theirs_text @ theirs_image.T).topk(SHORTLIST, dim=1).indices
    got, expected = [], []
    for row, chosen in enumerate(shortlist):
        inputs = {
            "image_embeds": image_embeds[chosen],
            "text_embeds": text_embeds[row].expand(SHORTLIST, -1, -1).contiguous(),
            "token_mask": mask[row].expand(SHORTLIST, -1).contiguous(),
        }
        got.append(torch.logit(run_onnx(exported / "match.onnx", inputs)[0]))
        expected.append(torch.logit(model.match(images[chosen], data.captions[row])))
    ours = _scores(image_feat, text_feat, torch.stack(got), shortlist, data.caption_image)
    theirs = _scores(theirs_image, theirs_text, torch.stack(expected), shortlist, data.caption_image)
    for ranking in ("itc", "itm", "itm_itc"):
        assert ours.ranks(ranking).tolist() == theirs.ranks(ranking).tolist(), ranking
        order = ours.scores(ranking).argsort(dim=1, descending=True)
        falling = theirs.scores(ranking).gather(1, order)
        # Only what the model itself scores alike to the fourth decimal may change places.
        assert float((falling[:, 1:] - falling[:, :-1]).max()) < 1e-4, ranking
    assert len(set(theirs.ranks("itm").tolist())) > 5
