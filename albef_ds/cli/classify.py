"""`albef-ds classify`: sorts images into named classes without training, and scores that on folders of classes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef_ds.cli.arguments import CommandParser, add_overrides, naming, whole_number
from albef_ds.cli.progress_bar import Bars, waiting
from albef_ds.common.atomic_files import check_target
from albef_ds.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from albef_ds.inference.model import AlbefModel
    from albef_ds.inference.zero_shot import Classifier

EXAMPLES = """\
  the most probable of three classes for each image
      albef-ds classify --model albef --images photos --label dog --label cat --label "nothing alive"
  classes in a file, an ensemble of templates, ITM over the five best
      albef-ds classify --model albef --images photos --labels classes.txt --ensemble --itm 5
  accuracy, confusion and calibration on FOLDER/CLASS/*.jpg
      albef-ds classify --model albef --evaluate FOLDER --template "a photo of a {}, a kind of bird" --output confusion.png"""


def main(argv: list[str]) -> int:
    """Prints classes or scores. Raises `UserError` if model, images, labels or templates cannot be used."""
    command = CommandParser("classify", "Sort images into named classes without training.", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file with ITC and ITM")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="PATH", help="an image, or a folder with its subfolders")
    source.add_argument("--evaluate", type=Path, metavar="FOLDER", help="has a subfolder of images for each class")
    command.add_argument("--label", action="append", default=[], metavar="NAME", help="a class; may be given again")
    command.add_argument(
        "--labels", type=Path, metavar="FILE", help="classes, one a line; with --evaluate a JSON object of folder and name"
    )
    command.add_argument(
        "--template", action="append", metavar="TEXT", help="has {} for the class (a photo of a {}); several: mean"
    )
    command.add_argument("--ensemble", action="store_true", help="the seven templates that CLIP's authors chose for ImageNet")
    command.add_argument("--itm", type=whole_number(0), default=0, metavar="N", help="ITM judges the N best classes (0)")
    command.add_argument("--top", type=whole_number(1), default=1, metavar="N", help="classes printed for each image (1)")
    command.add_argument("--output", type=Path, metavar="FILE", help="with --evaluate: a PNG of confusion and calibration")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    if arguments.ensemble and arguments.template:
        raise ConfigError("--ensemble and --template exclude each other: give one of them")
    if arguments.output is not None:
        if arguments.evaluate is None or arguments.output.suffix.lower() != ".png":
            raise ConfigError(
                f"--output {arguments.output} is the PNG of --evaluate: give a name that ends with .png, and --evaluate"
            )
        check_target(arguments.output)
    return _evaluate(arguments) if arguments.evaluate is not None else _classify(arguments)


def _classify(arguments: argparse.Namespace) -> int:
    from albef_ds.inference.zero_shot import classify  # start-up time

    labels = [*arguments.label, *(_lines(arguments.labels) if arguments.labels else [])]
    paths = _images(arguments.images)
    model, classes = _classes(arguments, labels)
    found = classify(model, paths, classes, itm=arguments.itm, progress=Bars())
    answers = []
    for row, probabilities in zip(found.rows, found.probabilities, strict=True):
        best = probabilities.argsort(descending=True, stable=True).tolist()[: arguments.top]
        answers.append((paths[row], [(classes.labels[place], float(probabilities[place])) for place in best]))
    left_out = [(str(paths[row]), reason) for row, reason in found.unreadable]
    if arguments.json:
        images = [
            {"path": str(path), "classes": [{"label": label, "probability": value} for label, value in best]}
            for path, best in answers
        ]
        unreadable = [{"path": path, "reason": reason} for path, reason in left_out]
        print(json.dumps({"images": images, "unreadable": unreadable}, indent=1))
        return 0
    for name, reason in left_out:
        print(f"left out: {name} ({reason})")
    for path, best in answers:
        print(f"{path}  " + ", ".join(f"{label} {value:.3f}" for label, value in best))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from albef_ds.evaluation.heatmap import save_png  # start-up time
    from albef_ds.inference.zero_shot import classify
    from albef_ds.inference.zero_shot_score import class_folders, draw, score

    if arguments.label:
        raise ConfigError(
            "--label is not used with --evaluate, whose folders name the classes: give --labels FILE for other names"
        )
    with naming("--evaluate"):
        folders = class_folders(arguments.evaluate)
    names = _names(arguments.labels) if arguments.labels else {}
    if unknown := next((name for name in names if name not in dict(folders)), None):
        raise DataError(
            f"{arguments.labels} names {unknown}, but {arguments.evaluate} has no such folder of images: mend the file"
        )
    labels = [names.get(name, name.replace("_", " ")) for name, _ in folders]
    model, classes = _classes(arguments, labels)
    paths = [(path, place) for place, (_, images) in enumerate(folders) for path in images]
    found = classify(model, [path for path, _ in paths], classes, itm=arguments.itm, progress=Bars())
    if found.unreadable:
        row, reason = found.unreadable[0]
        raise DataError(
            f"{len(found.unreadable)} images cannot be read, the first: {paths[row][0]} ({reason}); mend or remove them"
        )
    scores = score(found.probabilities, [place for _, place in paths])
    if arguments.output is not None:
        save_png(draw(scores, labels), arguments.output)
    record: dict[str, Any] = {
        "images": scores.images, "classes": len(labels), "accuracy": scores.accuracy, "top5": scores.top5,
        "mean_per_class": scores.mean_per_class, "chance": 1 / len(labels), "calibration_error": scores.calibration_error,
        "templates": len(classes.texts[0]), "itm": arguments.itm, "resolution": model.config.model.vision.image_size,
    }  # fmt: skip
    if arguments.json:
        bins = [{"images": number, "confidence": sure, "accuracy": share} for number, sure, share in scores.bins]
        print(json.dumps(record | {"labels": labels, "confusion": scores.confusion.tolist(), "bins": bins}, indent=1))
        return 0
    for name, value in record.items():
        print(f"{name:18} {value if isinstance(value, int) else format(value, '.4f')}")
    if arguments.output is not None:
        print(f"written: {arguments.output}")
    return 0


def _classes(arguments: argparse.Namespace, labels: list[str]) -> tuple[AlbefModel, Classifier]:
    from albef_ds.inference.kinds import require  # start-up time
    from albef_ds.inference.model import load
    from albef_ds.inference.zero_shot import ENSEMBLE, TEMPLATES, classifier

    with waiting("reading the model"):
        model = load(arguments.model, device=arguments.device, overrides=arguments.overrides)
    require(model.config, "match")
    return model, classifier(model, labels, ENSEMBLE if arguments.ensemble else tuple(arguments.template or TEMPLATES))


def _images(path: Path) -> list[Path]:
    from albef_ds.inference.sources import SUFFIXES  # start-up time

    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"--images {path} does not exist: give an image or a folder of images")
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise DataError(f"--images {path} holds no images: give a folder with {', '.join(SUFFIXES)} files")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--labels {path} cannot be read ({error}): give a text file with a class on each line") from None


def _names(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--labels {path} cannot be read ({error}): give a JSON object of folder and name") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise DataError(f"--labels {path} is not a JSON object of folder and name: write it like {{'n01440764': 'tench'}}")
    return found
