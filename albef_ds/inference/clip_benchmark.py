"""Lets the package clip-benchmark run an ALBEF model: `python -m albef_ds.inference.clip_benchmark eval ...`.

Takes clip-benchmark's own arguments; the model type is `albef`, and `pretrained` is any model that `albef_ds.load` takes. ITC is
measured and ITM is not, because clip-benchmark compares vectors. On a CPU switch its mixed precision off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from albef_ds.common.errors import MachineError
from albef_ds.inference.kinds import require
from albef_ds.inference.model import AlbefModel, load
from albef_ds.tasks.contrastive import ContrastiveTask

TYPE = "albef"


class Towers(nn.Module):
    """The two towers of a model with the names that clip-benchmark calls."""

    def __init__(self, model: AlbefModel) -> None:
        super().__init__()
        require(model.config, "encode_image")
        assert isinstance(model.task, ContrastiveTask)
        self.albef = model.task.model
        self._dtype = model.dtype

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """ITC features of images float32 (B, 3, S, S), float32 (B, embed_dim)."""
        return self.albef.project_image(self.albef.encode_image(pixels.to(self._dtype))).float()

    @torch.no_grad()
    def encode_text(self, ids: Tensor) -> Tensor:
        """ITC features of token ids int64 (B, L), padded by -1, float32 (B, embed_dim)."""
        mask = ids >= 0
        ids = ids.clamp(min=0)
        return self.albef.project_text(self.albef.encode_text(ids, mask), mask).float()


def load_albef(
    model_name: str = "", pretrained: str = "", cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> tuple[Towers, Callable[[Image.Image], Tensor], Callable[[Any], Tensor]]:
    """Model, transform of an image and tokenizer of texts, as clip-benchmark wants them. Raises as `albef_ds.load`."""
    model = load(pretrained, device=device)

    def transform(image: Image.Image) -> Tensor:
        return model.prepare_images(image)[0]

    def tokenizer(texts: Any) -> Tensor:
        ids, mask = model.prepare_texts(texts)
        return ids.masked_fill(~mask, -1)

    return Towers(model), transform, tokenizer


def register() -> Any:
    """Adds the model type `albef` to clip-benchmark and returns its command line. Raises `MachineError` without the package."""
    try:
        from clip_benchmark import cli, models  # optional package
    except ImportError as error:
        raise MachineError(f"{error.name} is not installed: run `pip install clip-benchmark`") from None
    models.TYPE2FUNC[TYPE] = load_albef
    if TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(TYPE)
    return cli


if __name__ == "__main__":
    sys.exit(register().main())
