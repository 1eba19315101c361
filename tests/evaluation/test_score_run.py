"""Scores of a run: validation chooses the checkpoint, test is scored once, lineage is recorded, protocols refuse models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.schema import RetrievalConfig, RunConfig, VqaConfig
from albef_ds.evaluation.main_metric import main_metric
from albef_ds.evaluation.protocols import PROTOCOLS, check_protocol
from albef_ds.evaluation.score_run import Request, named_files, score
from albef_ds.metrics.vqa_submission import validate_submission
from tests.data_tools.scenes.tiny import tiny_config


def trained(recipe: str, scenes: Path, output: Path, *overrides: str) -> Path:
    """A run of two steps with a checkpoint after each."""
    from albef_ds.config import files
    from albef_ds.training import trainer

    settings = ["train.max_steps=2", "train.save_every=1", "train.log_every=1", "train.dry_run_batch=false"]
    config = replace(tiny_config(recipe, scenes, *settings, *overrides), output=str(output))
    files.save(config, output.with_suffix(".json"))
    assert hasattr(trainer, "Trainer")
    assert main(["train", "--config", str(output.with_suffix(".json"))]) == 0
    return output


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pretraining run and two fine-tunings from it."""
    folder = tmp_path_factory.mktemp("runs")
    pretrain = trained("scenes_pretrain", scenes, folder / "pretrain")
    start = f"init.checkpoint={pretrain}"
    return {
        "pretrain": pretrain,
        "vqa": trained("scenes_vqa", scenes, folder / "vqa", start, "train.eval_every=1"),
        "retrieval": trained("scenes_retrieval", scenes, folder / "retrieval", start),
    }


def test_validation_chooses_and_test_is_scored_once_with_its_lineage(runs: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    record = score(Request(runs["vqa"]), tmp_path, torch.device("cpu"), lambda line: None)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(record))
    chosen = {name: metrics["vqa/accuracy"] for name, metrics in record["validation"].items()}
    assert len(chosen) == 2 and chosen[record["checkpoint"]] == max(chosen.values())
    assert list(record["splits"]) == ["vqa_test"] and record["splits"]["vqa_test"]["vqa/num_judged"] == 15
    assert record["resolution"] == 32 and record["protocol"]["k_test"] == 16
    assert [step["recipe"] for step in record["lineage"]] == ["scenes_pretrain", "scenes_vqa"]
    assert record["lineage"][-1]["sha256"] == record["sha256"] != record["lineage"][0]["sha256"]
    assert validate_submission(tmp_path / "vqa_vqa_test_answers.json", scenes / "v2_questions_test.json") == 15


def test_the_command_scores_other_files_and_the_momentum_copy(
    runs: dict[str, Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = f"data.test_annotations=hard/#1={scenes}/retrieval_test.json,{scenes}/retrieval_unseen.json"
    arguments = ["evaluate", str(runs["retrieval"]), files, "--weights", "momentum", "--output", str(tmp_path)]
    assert main([*arguments, "data.eval_annotations=", "task.k_test=4"]) == 0
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert list(record["splits"]) == ["hard/#1", "retrieval_unseen"] and record["weights"] == "momentum"
    assert record["splits"]["hard/#1"]["retrieval/k_test_t2i"] == 4
    pages = sorted(tmp_path.glob("failures_*.html"))
    assert [page.name for page in pages] == ["failures_hard_#1.html", "failures_retrieval_unseen.html"]
    assert "Texts that find another image first" in pages[0].read_text()
    said = capsys.readouterr().out
    assert "taking the last" in said and f"failed queries, the worst in {pages[0]}" in said


def test_flickr30k_zero_shot_refuses_a_model_without_coco_in_its_lineage(
    runs: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    request = Request(runs["retrieval"], protocol="flickr30k_zero_shot", splits={"test": f"{scenes}/retrieval_test.json"})
    lineage = "lineage is scenes_pretrain > scenes_retrieval"
    with pytest.raises(ConfigError, match=f"{lineage}: fine-tune with the recipe retrieval_coco"):
        score(request, tmp_path, torch.device("cpu"), lambda line: None)
    assert not (tmp_path / "metrics.json").exists()


def test_protocols_look_at_the_whole_lineage() -> None:
    config = RunConfig(task=RetrievalConfig())
    coco = [{"recipe": "pretrain_4m"}, {"recipe": "retrieval_coco"}]
    assert check_protocol("flickr30k_zero_shot", config, coco) is PROTOCOLS["flickr30k_zero_shot"]
    with pytest.raises(ConfigError, match="excludes models trained with retrieval_flickr"):
        check_protocol("flickr30k_zero_shot", config, [*coco, {"recipe": "retrieval_flickr"}])
    with pytest.raises(ConfigError, match="excludes models trained with retrieval_coco"):
        check_protocol("flickr30k_pretrained", config, coco)
    with pytest.raises(ConfigError, match="the model's task is vqa"):
        check_protocol("coco_pretrained", RunConfig(task=VqaConfig()), [])
    with pytest.raises(ConfigError, match="there is no protocol imagenet: choose one of"):
        check_protocol("imagenet", config, [])


def test_splits_are_named_by_the_user_or_by_their_files() -> None:
    assert named_files("a/test.json, dev=b/x.json") == {"test": "a/test.json", "dev": "b/x.json"}
    with pytest.raises(ConfigError, match=r"a/test.json and b/test.json are both named test: give NAME=FILE"):
        named_files("a/test.json,b/test.json")


def test_nothing_to_score_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    overrides = ("data.eval_annotations=", "data.test_annotations=")
    with pytest.raises(ConfigError, match="there is nothing to score"):
        score(Request(runs["vqa"], overrides), tmp_path, torch.device("cpu"), lambda line: None)


def test_search_ranks_a_folder_and_indexes_only_what_is_new(
    runs: dict[str, Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    pictures = sorted((scenes / "images" / "retrieval").glob("test_*.png"))
    for number, picture in enumerate(pictures[:5]):
        (photos / ("sub" if number % 2 else ".") / picture.name).write_bytes(picture.read_bytes())
    (photos / "broken.png").write_bytes(b"no picture")
    arguments = [
        "search",
        "--model",
        str(runs["retrieval"]),
        "--images",
        str(photos),
        "--text",
        "a red circle above a blue cross",
    ]
    arguments += ["--rerank", "3", "--top", "4", "--output", str(tmp_path / "page.html")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "left out: broken.png" in shown and "5 images, 5 of them new" in shown
    assert shown.count("match") == 3 and shown.count("similarity") == 4
    assert (tmp_path / "page.html").read_text().count("<figure>") == 4
    (photos / "new.png").write_bytes(pictures[5].read_bytes())
    assert main(arguments) == 0
    assert "6 images, 1 of them new" in capsys.readouterr().out


def test_ask_answers_from_a_list_or_freely(runs: dict[str, Path], scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(next((scenes / "images" / "test2014").glob("*.jpg")))
    arguments = ["ask", "--model", str(runs["vqa"]), "--image", picture, "--question", "what color is the circle"]
    assert main([*arguments, "--answers", str(scenes / "answer_list.json")]) == 0
    assert capsys.readouterr().out.strip() in json.loads((scenes / "answer_list.json").read_text())
    assert main(arguments) == 0


def test_ground_writes_an_overlay_and_ranks_boxes_by_layer(
    runs: dict[str, Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    picture = str(next((scenes / "images" / "refs").glob("*.png")))
    arguments = ["ground", "--model", str(runs["retrieval"]), "--image", picture, "--text", "the red circle"]
    boxes = ["--box", "0,0,16,16", "--box", "16,16,32,32"]
    assert main([*arguments, *boxes, "--output", str(tmp_path / "words.png")]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line[0] in "12"]) == 2
    words = Image.open(tmp_path / "words.png")
    assert words.width == 160 * 5  # the sentence, [CLS] and three words
    assert main([*arguments, *boxes, "--sweep", "--output", str(tmp_path / "layers.png")]) == 0
    assert capsys.readouterr().out.count("layer 1") == 2
    assert Image.open(tmp_path / "layers.png").width == 160 * 2
    with pytest.raises(ConfigError, match="is not a box"):
        from albef_ds.cli.ground import main as ground

        ground([*arguments[1:], "--box", "1,2"])


def test_a_protocol_sets_how_many_candidates_are_reranked(runs: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    request = Request(runs["pretrain"], protocol="flickr30k_pretrained", splits={"test": f"{scenes}/retrieval_test.json"})
    record = score(request, tmp_path, torch.device("cpu"), lambda line: None)
    assert record["protocol"]["name"] == "flickr30k_pretrained" and record["protocol"]["k_test"] == 128
    assert record["protocol"]["itm_score"] == "match" and record["protocol"]["max_tokens"] == 30
    assert record["splits"]["test"]["retrieval/k_test_t2i"] == 12  # all images


def test_a_validation_split_without_answers_cannot_choose() -> None:
    with pytest.raises(DataError, match="no checkpoint can be chosen"):
        main_metric(RunConfig(task=VqaConfig()), {"vqa/num_questions": 5.0})
    assert main_metric(RunConfig(task=RetrievalConfig()), {"retrieval/mean_recall": 5.0}) == ("retrieval/mean_recall", 5.0)
