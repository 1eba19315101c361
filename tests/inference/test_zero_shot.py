"""Zero-shot classification: probabilities equal those computed by hand, and the scores equal scores that are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from albef_ds.cli.main import main
from albef_ds.common.errors import ConfigError
from albef_ds.inference import model as interface
from albef_ds.inference.zero_shot import classifier, classify
from albef_ds.inference.zero_shot_score import draw, score
from tests.data_tools.sample_images import tar_of
from tests.inference.tiny_models import model_folder, picture

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("cup", "ball", "dog", "cat")
TEMPLATES = ("a {}", "the red {}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and folders of classes with three images each."""
    folder = tmp_path_factory.mktemp("zero_shot")
    model_folder(folder, "retrieval")
    for number, label in enumerate(LABELS):
        (folder / "classes" / label).mkdir(parents=True)
        for seed in range(3):
            picture(10 * number + seed).save(folder / "classes" / label / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> interface.AlbefModel:
    return interface.load(place / "retrieval", device="cpu")


def test_itc_is_the_softmax_of_the_mean_of_the_templates(model: interface.AlbefModel) -> None:
    classes = classifier(model, LABELS, TEMPLATES)
    found = classify(model, [picture(1), picture(2)], classes)
    texts = model.encode_text([template.replace("{}", label) for label in LABELS for template in TEMPLATES])
    means = F.normalize(texts.view(4, 2, -1).mean(1), dim=1)
    logits = model.encode_image([picture(1), picture(2)]) @ means.T / model.config.task.temperature  # type: ignore[union-attr]
    torch.testing.assert_close(found.probabilities, logits.softmax(dim=1), atol=1e-5, rtol=0)


def test_itm_shares_the_mass_of_the_best_classes_anew(model: interface.AlbefModel) -> None:
    classes = classifier(model, LABELS, TEMPLATES)
    [itc], [itm] = (classify(model, [picture(1)], classes, itm=number).probabilities for number in (0, 3))
    best = itc.argsort(descending=True)[:3]
    odds = [torch.logit(model.match(picture(1), list(classes.texts[row]))).mean() for row in best.tolist()]
    torch.testing.assert_close(itm[best], torch.stack(odds).softmax(dim=0) * itc[best].sum(), atol=1e-5, rtol=0)
    [last] = set(range(4)) - set(best.tolist())
    assert itm[last] == itc[last] and float(itm.sum()) == pytest.approx(1, abs=1e-5)


def test_an_image_that_cannot_be_read_is_named_and_left_out(model: interface.AlbefModel, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"x")
    found = classify(model, [picture(1), tmp_path / "torn.png", picture(2)], classifier(model, LABELS))
    assert found.rows == (0, 2) and found.probabilities.shape == (2, 4)
    assert found.unreadable[0][0] == 1 and "not a usable image" in found.unreadable[0][1]


@pytest.mark.parametrize(
    ("labels", "templates", "words"),
    [
        (["cup"], TEMPLATES, "1 labels are given"),
        (["cup", "dog", "cup"], TEMPLATES, "'cup' is given twice"),
        (["cup", " "], TEMPLATES, "has no words"),
        (["cup", "?!"], ["{}"], "nothing is left"),
        (["cup", "dog"], ["a photo"], "has not one {} for the label"),
        (["cup", "dog"], [], "no template"),
    ],
)
def test_labels_and_templates_that_cannot_be_used_are_named(
    labels: list[str], templates: list[str], words: str, model: interface.AlbefModel
) -> None:
    with pytest.raises(ConfigError, match=words):
        classifier(model, labels, templates)


def test_scores_are_those_that_are_counted() -> None:
    probabilities = torch.tensor([[0.72, 0.18, 0.1], [0.42, 0.33, 0.25], [0.45, 0.45, 0.1], [0.03, 0.03, 0.94]])
    found = score(probabilities, [0, 1, 1, 2])
    assert (found.images, found.accuracy, found.top5) == (4, 0.5, 1.0)  # a tie is no hit
    assert found.mean_per_class == pytest.approx((1 + 0 + 1) / 3)
    assert found.confusion.tolist() == [[1, 0, 0], [2, 0, 0], [0, 0, 1]]
    assert [found.bins[place][0] for place in (4, 9)] == [2, 1] and sum(number for number, _, _ in found.bins) == 4
    expected = (2 * abs(0.435 - 0) + abs(0.72 - 1) + abs(0.94 - 1)) / 4
    assert found.calibration_error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [3, 60])
def test_the_drawing_shows_the_shares_of_the_rows(classes: int) -> None:
    right = [place for place in range(classes) for _ in range(2)]
    probabilities = torch.eye(classes)[right]
    probabilities[0] = torch.eye(classes)[1]
    sheet = draw(score(probabilities, right), [f"class {place}" for place in range(classes)])
    cell, left = (22, 150) if classes == 3 else (8, 20)
    assert sheet.getpixel((left + cell // 2 + cell, 30 + cell + cell // 2)) == (26, 127, 55)  # the second row is all right
    assert sheet.getpixel((left + cell // 2 + cell, 30 + cell // 2)) == (218, 145, 140)  # half of the first went to the second


def test_the_command_prints_classes(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["classify", "--model", str(place / "retrieval"), "--images", str(place / "classes")]
    (place / "labels.txt").write_text("dog\n\ncat\n")
    assert main([*command, "--label", "cup", "--labels", str(place / "labels.txt"), "--top", "2", "--itm", "2", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert len(answer["images"]) == 12 and {entry["label"] for entry in answer["images"][0]["classes"]} <= {"cup", "dog", "cat"}
    assert main([*command, "--label", "cup", "--label", "dog"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 12


def test_the_command_scores_folders(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["classify", "--model", str(place / "retrieval"), "--evaluate", str(place / "classes"), "--ensemble"]
    assert main([*command, "--output", str(tmp_path / "confusion.png"), "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["images"], record["classes"], record["templates"], record["chance"]) == (12, 4, 7, 0.25)
    assert sum(map(sum, record["confusion"])) == 12 and record["labels"] == ["ball", "cat", "cup", "dog"]
    assert Image.open(tmp_path / "confusion.png").format == "PNG"
    (tmp_path / "names.json").write_text('{"cup": "red cup"}')
    assert main([*command, "--labels", str(tmp_path / "names.json"), "--json"]) == 0
    assert "red cup" in json.loads(capfd.readouterr().out)["labels"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "classes"], "0 labels are given"),
        (["--images", "nowhere", "--label", "a", "--label", "b"], "nowhere does not exist"),
        (["--evaluate", "retrieval"], "0 subfolders with images"),
        (["--evaluate", "classes", "--label", "a"], "--label is not used"),
        (["--evaluate", "classes", "--template", "{}", "--ensemble"], "exclude each other"),
        (["--images", "classes", "--output", "x.png"], "is the PNG of --evaluate"),
        (["--evaluate", "classes", "--labels", "labels.txt"], "cannot be read"),
        (["--evaluate", "classes", "--labels", "names.json"], "names lion, but"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "labels.txt").write_text("dog\n")
    (place / "names.json").write_text('{"lion": "a lion"}')
    assert main(["classify", "--model", "retrieval", *arguments]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert words in line


def test_clip_benchmark_measures_the_same_accuracy(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("clip_benchmark")
    if tuple(map(int, pytest.importorskip("numpy").__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("clip-benchmark 1.6.2 needs numpy before 2.4")
    data = tmp_path / "wds"
    (data / "test").mkdir(parents=True)
    (data / "test" / "nshards.txt").write_text("1\n")
    names = sorted(LABELS)
    (data / "classnames.txt").write_text("\n".join(names) + "\n")
    (data / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    members = []
    for number, path in enumerate(sorted((place / "classes").rglob("*.png"))):
        members += [
            (f"s{number:04d}.png", path.read_bytes()),
            (f"s{number:04d}.cls", str(names.index(path.parent.name)).encode()),
        ]
    tar_of(data / "test" / "0.tar", members)
    arguments = ["--dataset", "wds/tiny", "--dataset_root", str(data), "--task", "zeroshot_classification", "--split", "test"]
    arguments += ["--model", "tiny", "--model_type", "albef", "--pretrained", str(place / "retrieval"), "--no_amp"]
    arguments += ["--num_workers", "0", "--output", str(tmp_path / "out.json")]
    command = [sys.executable, "-m", "albef_ds.inference.clip_benchmark", "eval", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert main(["classify", "--model", str(place / "retrieval"), "--evaluate", str(place / "classes"), "--json"]) == 0
    ours = json.loads(capfd.readouterr().out)
    assert measured["acc1"] == pytest.approx(ours["accuracy"]) and measured["mean_per_class_recall"] == pytest.approx(
        ours["mean_per_class"]
    )
