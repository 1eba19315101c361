"""Encodes images of which some cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from albef_ds.common.errors import UserError
from albef_ds.inference.inputs import ImageInput
from albef_ds.inference.model import AlbefModel


def features_or_reasons(model: AlbefModel, images: Sequence[ImageInput]) -> list[Tensor | str]:
    """Returns the ITC features of each image, float32 (embed_dim,) on the CPU; a reason instead if it cannot be read."""
    try:
        return list(model.encode_image(list(images)).cpu())
    except UserError as error:
        if len(images) == 1:
            return [str(error)]
        return [found for image in images for found in features_or_reasons(model, [image])]
