"""Scores zero-shot classification on folders of classes: accuracy, confusion, calibration, and a drawing of the last two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from albef_ds.common.errors import DataError
from albef_ds.inference.sources import SUFFIXES

BINS = 10
_CELL, _MARGIN, _SIDE = 22, 150, 480  # pixels
_NAMED = 40
"""Most classes whose names are drawn."""


@dataclass(frozen=True)
class Scores:
    """How well probabilities agree with the right classes; shares from 0 to 1."""

    images: int
    accuracy: float
    top5: float
    mean_per_class: float
    """Mean of the accuracies of the classes, which weighs rare ones equally."""
    calibration_error: float
    """Expected calibration error (arXiv 1706.04599): mean distance of confidence and accuracy over BINS bins, by their sizes."""
    bins: tuple[tuple[int, float, float], ...]
    """(images, mean confidence, accuracy) of each bin of confidence."""
    confusion: Tensor
    """int64 (C, C): images of the class of the row that went to the class of the column."""


def class_folders(folder: Path) -> list[tuple[str, list[Path]]]:
    """(name, images) of each subfolder with images, sorted by name.

    Raises `DataError` if there are fewer than two.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give one with a subfolder of images for each class")
    found = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if images := sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
            found.append((place.name, images))
    if len(found) < 2:
        raise DataError(f"{folder} has {len(found)} subfolders with images: give one with a subfolder for each class")
    return found


def score(probabilities: Tensor, right: Sequence[int]) -> Scores:
    """Scores of probabilities (N, C), N at least 1, against the right classes. A tie counts against the model.

    The prediction for calibration and confusion is the most probable class, of equal ones the first.
    """
    targets = torch.tensor(list(right))
    classes = probabilities.shape[1]
    own = probabilities.gather(1, targets[:, None])
    better = (probabilities >= own).sum(dim=1) - 1
    confidence, predicted = probabilities.max(dim=1)
    confusion = torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)
    totals = confusion.sum(dim=1)
    hits = (better == 0).double()
    per_class = torch.zeros(classes, dtype=torch.float64).index_add_(0, targets, hits)
    bins = _bins(confidence.double(), hits)
    error = sum(number * abs(sure - share) for number, sure, share in bins) / len(targets)
    return Scores(
        images=len(targets),
        accuracy=float(hits.mean()),
        top5=float((better < 5).double().mean()),
        mean_per_class=float((per_class / totals.clamp(min=1))[totals > 0].mean()),
        calibration_error=error,
        bins=bins,
        confusion=confusion,
    )


def _bins(confidence: Tensor, hits: Tensor) -> tuple[tuple[int, float, float], ...]:
    places = (confidence * BINS).long().clamp(max=BINS - 1)
    found = []
    for place in range(BINS):
        inside = places == place
        number = int(inside.sum())
        found.append((number, float(confidence[inside].mean()), float(hits[inside].mean())) if number else (0, 0.0, 0.0))
    return tuple(found)


def draw(scores: Scores, labels: Sequence[str]) -> Image.Image:
    """The confusion matrix (rows: right class, darker: larger share of the row) beside the calibration curve."""
    classes = len(labels)
    named = classes <= _NAMED
    cell = _CELL if named else max(2, _SIDE // classes)
    side, left = cell * classes, _MARGIN if named else 20
    height = max(side + (_MARGIN if named else 40), 360)
    sheet = Image.new("RGB", (left + side + 340, height), "white")
    canvas = ImageDraw.Draw(sheet)
    top = 30
    canvas.text((left, 8), "predicted, for each right class (row)", fill="black")
    shares = scores.confusion.double() / scores.confusion.sum(dim=1, keepdim=True).clamp(min=1)
    for row in range(classes):
        for column in range(classes):
            if share := float(shares[row, column]):
                shade = tuple(round(255 - share * (255 - part)) for part in ((26, 127, 55) if row == column else (180, 35, 24)))
                place = (left + column * cell, top + row * cell)
                canvas.rectangle((*place, place[0] + cell - 1, place[1] + cell - 1), fill=shade)
        if named:
            canvas.text((4, top + row * cell + 5), labels[row][:22], fill="black")
    canvas.rectangle((left - 1, top - 1, left + side, top + side), outline="grey")
    if named:
        _names_below(sheet, labels, left, top + side + 4, cell)
    _calibration(canvas, scores, left + side + 50, top)
    return sheet


def _names_below(sheet: Image.Image, labels: Sequence[str], left: int, top: int, cell: int) -> None:
    for place, label in enumerate(labels):
        strip = Image.new("RGB", (_MARGIN - 40, 14), "white")
        ImageDraw.Draw(strip).text((0, 1), label[:18], fill="black")
        sheet.paste(strip.rotate(-90, expand=True), (left + place * cell + 4, top))


def _calibration(canvas: ImageDraw.ImageDraw, scores: Scores, left: int, top: int) -> None:
    side = 240
    canvas.text((left, top - 22), f"calibration error {scores.calibration_error:.3f}", fill="black")
    canvas.rectangle((left, top, left + side, top + side), outline="grey")
    canvas.line((left, top + side, left + side, top), fill="grey")
    width = side // BINS
    for place, (number, _, share) in enumerate(scores.bins):
        if number:
            x = left + place * width
            canvas.rectangle((x + 2, top + side - round(share * side), x + width - 2, top + side), fill=(37, 99, 201))
    canvas.text((left, top + side + 6), "confidence, 0 to 1; bars: accuracy", fill="black")
    canvas.text((left, top + side + 24), f"accuracy {scores.accuracy:.3f} of {scores.images} images", fill="black")
