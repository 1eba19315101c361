"""Features and scores of image-text pairs, for tools that choose among the pairs of a corpus.

Every image and every caption is encoded once for ITC and ITM together. Reads bytes and texts; knows neither shards nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids
from albef_ds.inference.model import AlbefModel
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.tasks.contrastive import ContrastiveTask


@dataclass(frozen=True)
class PairFeatures:
    """Features of N images and C captions, and the scores of the C pairs that a caption forms with its image.

    What cannot be read has features of zeros, and its pairs the score NaN.
    """

    images: Tensor
    """float32 (N, embed_dim), unit length."""
    texts: Tensor
    """float32 (C, embed_dim), unit length."""
    itc: Tensor
    """float32 (C,): similarity, -1 to 1."""
    itm: Tensor
    """float32 (C,): probability that image and text match."""


class PairScorer:
    """Computes `PairFeatures` with a loaded model, `batch_size` images or captions at a time.

    Raises `UserError` if the model has no ITC features and ITM head, or `batch_size` is below 1.
    """

    def __init__(self, model: AlbefModel, batch_size: int = 64) -> None:
        if not isinstance(model.task, ContrastiveTask):
            raise WeightsError(f"the model is of kind {model.kind}: pairs are scored by one of kind pretrain or retrieval")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
        self._model, self._task, self._batch_size = model, model.task, batch_size
        self._data = model.config.evaluation_data
        self._tokenizer = CaptionTokenizer.from_config(self._data)
        if self._tokenizer.vocab_size != model.config.model.text.vocab_size:
            raise ConfigError(
                f"the model has {model.config.model.text.vocab_size} word pieces, but its vocabulary file "
                f"{self._tokenizer.vocab_size}: give the file it was trained with, data.vocab_file=FILE"
            )

    @property
    def embed_dim(self) -> int:
        """Width of a feature."""
        return self._model.config.model.embed_dim

    def identity(self) -> str:
        """Hash of what features and scores depend on: the weights, the precision, and how images and texts are read."""
        data, config = self._data, self._model.config
        read = (data.max_words, data.max_tokens, data.sep_token, data.compat, data.max_pixels, config.model.vision.image_size)
        digest = xxhash.xxh3_128(repr((read, str(self._model.dtype), config.model)).encode())
        for name, parameter in sorted(self._task.named_parameters()):
            digest.update(name.encode() + parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def pixels(self, image: bytes) -> Tensor | None:
        """Returns an encoded image as the model takes it, float32 (3, S, S); None if it cannot be read. Usable in threads."""
        size = self._model.config.model.vision.image_size
        try:
            return decode.resize(image, self._data.max_pixels, size, compat=self._data.compat)
        except BrokenSampleError:
            return None

    @torch.inference_mode()
    def score(self, pixels: Sequence[Tensor | None], captions: Sequence[Sequence[str]]) -> PairFeatures:
        """Returns features of N images, as `pixels` gives them, and of their captions, image by image."""
        owners = [image for image, texts in enumerate(captions) for _ in texts]
        count, width = len(owners), self.embed_dim
        none = torch.full((count,), torch.nan)
        found = PairFeatures(torch.zeros(len(pixels), width), torch.zeros(count, width), none, none.clone())
        embeds = self._images(pixels, found)
        tokens = [self._tokenizer.read(text)[1] for texts in captions for text in texts]
        for start in range(0, count, self._batch_size):
            rows = [row for row in range(start, min(start + self._batch_size, count)) if len(tokens[row]) > 1]
            if rows:
                self._pairs(rows, owners, tokens, pixels, embeds, found)
        return found

    def _images(self, pixels: Sequence[Tensor | None], found: PairFeatures) -> Tensor | None:
        """Fills in the images' features and returns their embeddings (N, ...), with zeros for those that cannot be read."""
        albef, device, dtype = self._task.model, self._model.device, self._model.dtype
        embeds: Tensor | None = None
        for start in range(0, len(pixels), self._batch_size):
            rows = [row for row in range(start, min(start + self._batch_size, len(pixels))) if pixels[row] is not None]
            if not rows:
                continue
            given = torch.stack([image for row in rows if (image := pixels[row]) is not None])
            part = albef.encode_image(given.to(device=device, dtype=dtype))
            if embeds is None:
                embeds = part.new_zeros(len(pixels), *part.shape[1:])
            embeds[torch.tensor(rows, device=device)] = part
            found.images[rows] = albef.project_image(part).float().cpu()
        return embeds

    def _pairs(
        self,
        rows: list[int],
        owners: list[int],
        tokens: Sequence[NDArray[np.int64]],
        pixels: Sequence[Tensor | None],
        embeds: Tensor | None,
        found: PairFeatures,
    ) -> None:
        """Fills in the features of the captions `rows`, and the scores of those whose image could be read."""
        albef, device = self._task.model, self._model.device
        ids, mask = (part.to(device) for part in pad_ids([tokens[row] for row in rows]))
        texts = albef.encode_text(ids, mask)
        found.texts[rows] = albef.project_text(texts, mask).float().cpu()
        places = [place for place, row in enumerate(rows) if pixels[owners[row]] is not None]
        if not places or embeds is None:
            return
        scored = [rows[place] for place in places]
        index = torch.tensor([owners[row] for row in scored], device=device)
        chosen = torch.tensor(places, device=device)
        cls = torch.zeros(len(places), 1, dtype=torch.int64, device=device)
        [hidden] = albef.fuse(embeds, [FusionPass(texts[chosen], mask[chosen], (index,), cls)])
        found.itm[scored] = F.softmax(self._task.itm_head(hidden[:, 0]).float(), dim=-1)[:, 1].cpu()
        found.itc[scored] = (found.texts[scored] * found.images[index.cpu()]).sum(dim=1)
