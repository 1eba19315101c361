"""Zero-shot classification: names of classes become texts by templates, and images go to the class whose texts fit best.

ITC compares features, as CLIP does (arXiv 2103.00020, section 3.1.4); ITM, which sees image and text together, may judge the best
classes anew. Not responsible for measuring (`zero_shot_score.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.common.progress import Progress, silent
from albef_ds.inference.inputs import ImageInput
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.readable import features_or_reasons
from albef_ds.tasks.contrastive import ContrastiveTask

TEMPLATES = ("a photo of a {}",)
ENSEMBLE = (
    *("itap of a {}", "a bad photo of the {}", "a origami {}", "a photo of the large {}", "a {} in a video game"),
    *("art of the {}", "a photo of the small {}"),
)
"""The seven templates that CLIP's authors chose for ImageNet from 80 (their notebook of prompts)."""
_BATCH = 32
_EPSILON = 1e-6


@dataclass(frozen=True)
class Classifier:
    """Classes as features and texts."""

    labels: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    """The texts of each class, one per template."""
    features: Tensor
    """float32 (C, embed_dim), unit length: the mean of the features of a class's texts."""


def classifier(model: AlbefModel, labels: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Classifier:
    """The classes `labels`, each described by every template with `{}` replaced by its name.

    Raises:
        UserError: there are fewer than two labels, one is given twice or has no words, a template lacks `{}`, or the model has no
            ITC features.
    """
    if len(labels) < 2:
        raise ConfigError(f"{len(labels)} labels are given: give two or more")
    if repeated := next((label for place, label in enumerate(labels) if label in labels[:place]), None):
        raise ConfigError(f"the label {repeated!r} is given twice: give each once")
    if odd := next((template for template in templates if template.count("{}") != 1), None):
        raise ConfigError(f"the template {odd!r} has not one {{}} for the label: write it like 'a photo of a {{}}'")
    if not templates:
        raise ConfigError("no template is given: give one such as 'a photo of a {}'")
    if blank := next((label for label in labels if not label.strip()), None):
        raise ConfigError(f"the label {blank!r} has no words: give a name")
    texts = tuple(tuple(template.replace("{}", label) for template in templates) for label in labels)
    flat = model.encode_text([text for row in texts for text in row]).cpu()
    features = F.normalize(flat.view(len(labels), len(templates), -1).mean(dim=1), dim=1)
    return Classifier(tuple(labels), texts, features)


@dataclass(frozen=True)
class Classified:
    """Probabilities of the images that could be read."""

    rows: tuple[int, ...]
    """Place of each image among those given."""
    probabilities: Tensor
    """float32 (N, C), rows sum to 1."""
    unreadable: tuple[tuple[int, str], ...]
    """(place, reason) of the others."""


def classify(
    model: AlbefModel, images: Sequence[ImageInput], classes: Classifier, *, itm: int = 0, progress: Progress = silent
) -> Classified:
    """Probability of each class for each image.

    By ITC: the softmax of similarities over the model's temperature. With `itm`, the probability of the `itm` best classes
    together is shared out anew among them: by the softmax of the ITM log-odds of match, averaged over a class's texts.

    Args:
        model: has ITC features, and with `itm` an ITM head.
        images: one or more.
        classes: from `classifier`.
        itm: number of classes that ITM judges for each image; 0 or 1: none.
        progress: called after every batch.

    Raises:
        UserError: the model has no ITC features. An image that cannot be read is left out and named in the result.
    """
    task = model.task
    assert isinstance(task, ContrastiveTask)
    temperature = float(task.temperature.detach())
    rows: list[int] = []
    parts: list[Tensor] = []
    unreadable: list[tuple[int, str]] = []
    for start in range(0, len(images), _BATCH):
        for row, features in enumerate(features_or_reasons(model, images[start : start + _BATCH]), start=start):
            if isinstance(features, str):
                unreadable.append((row, features))
                continue
            probabilities = F.softmax(classes.features @ features / temperature, dim=0)
            parts.append(_judged(model, images[row], classes, probabilities, itm) if itm > 1 else probabilities)
            rows.append(row)
        progress("images", min(start + _BATCH, len(images)), len(images))
    empty = torch.zeros(0, len(classes.labels))
    return Classified(tuple(rows), torch.stack(parts) if parts else empty, tuple(unreadable))


def _judged(model: AlbefModel, image: ImageInput, classes: Classifier, probabilities: Tensor, itm: int) -> Tensor:
    best = probabilities.argsort(descending=True, stable=True)[:itm]
    texts = [text for place in best.tolist() for text in classes.texts[place]]
    match = model.match(image, texts).cpu().double().clamp(_EPSILON, 1 - _EPSILON)
    odds = torch.logit(match).view(len(best), -1).mean(dim=1)
    judged = probabilities.clone()
    judged[best] = (F.softmax(odds, dim=0) * probabilities[best].sum()).float()
    return judged
