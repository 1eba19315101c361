"""A trained model in a few lines: `albef_ds.load(path)` gives an `AlbefModel` that takes pictures and texts as they are.

>>> import albef_ds
>>> from PIL import Image
>>> red, blue = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")

Features, whose products are similarities (a small model of 8 features, in the model folder `folder`):

>>> model = albef_ds.load(folder)
>>> model.encode_image([red, blue]).shape
torch.Size([2, 8])
>>> (model.encode_text(["a red cup", "a blue cup", "the table"]) @ model.encode_image([red, blue]).T).shape
torch.Size([3, 2])

The probability that picture and text belong together, which looks at both at once, and where in the picture a text is:

>>> matches = model.match(red, ["a red cup", "a blue cup"])
>>> bool((0 <= matches).all() and (matches <= 1).all())
True
>>> found = model.ground(red, "red cup", boxes=[(0, 0, 32, 24), (32, 24, 64, 48)])
>>> found.heatmap.shape, [word for word, _ in found.words], len(found.boxes)
(torch.Size([48, 64]), ['[CLS]', 'red', 'cup'], 2)

Answers, from a list or written freely, by a model that was trained for VQA:

>>> vqa = albef_ds.load(vqa_folder)
>>> vqa.answer(red, "what is on the table", answers=["cup", "ball"])[0] in ("cup", "ball")
True
>>> vqa.match(red, "a red cup")
Traceback (most recent call last):
albef_ds.common.errors.WeightsError: match needs a model of kind pretrain or retrieval, this one is of kind vqa: load such a model

Everything runs in eval mode, without gradients and without random numbers: the same call gives the same result. Not
responsible for training, evaluation over a corpus (`albef-ds evaluate`) or serving.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.checkpoint.formats.read import build_for_inference, read_model
from albef_ds.checkpoint.formats.whole_model import Weights, WholeModel
from albef_ds.common.errors import ConfigError, MachineError, WeightsError
from albef_ds.data.batch import Batch, ClassificationBatch
from albef_ds.data.text.clean import clean_caption
from albef_ds.data.text.tokenizer import CaptionTokenizer
from albef_ds.inference.inputs import ImageInput, Images, Texts, batches, many, paired, pixels_of, size_of
from albef_ds.metrics.boxes import score_boxes, upscale
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.gradcam import ground_text, middle_layer
from albef_ds.tasks.base import Task
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.contrastive import ContrastiveTask
from albef_ds.tasks.registry import TASKS
from albef_ds.tasks.vqa import VqaTask

_T = TypeVar("_T")
Corners = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""
BATCH_SIZE = 32
"""Pictures or texts per forward pass unless a call says otherwise."""


@dataclass(frozen=True)
class Grounding:
    """Where a text is in a picture."""

    heatmap: Tensor
    """float32 (H, W) in pixels of the picture, bicubic between patches: evidence for the whole text."""
    words: tuple[tuple[str, Tensor], ...]
    """Each token and its own map (h, w), one cell per patch."""
    boxes: tuple[tuple[float, Corners], ...]
    """(score, corners) of the boxes that were given, best first: heat inside over the square root of the area."""


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
    weights: Weights = "student",
    overrides: Sequence[str] = (),
) -> AlbefModel:
    """The model at `path`, ready for use.

    Args:
        path: model folder, run or checkpoint folder, one of our safetensors files, or a released or LAVIS file.
        device: `auto` takes the GPU if there is one.
        dtype: precision to compute in, such as `torch.bfloat16` or "bf16"; None: float32.
        weights: `student`, or `momentum` for the averaged copy.
        overrides: `section.field=value` for what a released file does not say.

    Raises:
        UserError: no model at `path`, a damaged one, or no such device or precision.
    """
    found = read_model(Path(path), overrides)
    return AlbefModel(found.model.select(weights, queues=False), device=_device(device), dtype=_dtype(dtype))


class AlbefModel:
    """A model of any kind; a method that its training does not serve raises `UserError` and names the kinds that do.

    `task` is the torch module, `config` its settings, `kind` what it was trained for, `lineage` where it comes from.
    """

    def __init__(self, model: WholeModel, *, device: torch.device, dtype: torch.dtype) -> None:
        """Build the task of `model` on `device` in `dtype`; `load` is the usual way here."""
        self.config = model.config
        self.kind = model.kind
        self.lineage = model.lineage
        self.device, self.dtype = device, dtype
        self.task: Task = build_for_inference(model, device, dtype)

    @cached_property
    def _tokenizer(self) -> CaptionTokenizer:
        tokenizer, size = CaptionTokenizer.from_config(self.config.data), self.config.model.text.vocab_size
        if tokenizer.vocab_size != size:
            raise ConfigError(
                f"the model has {size} word pieces, its vocabulary file {tokenizer.vocab_size}: "
                "give the file it was trained with, data.vocab_file=FILE"
            )
        return tokenizer

    def prepare_images(self, images: Images) -> Tensor:
        """Pictures as the model takes them: float32 (B, 3, S, S), resized (bicubic) and normalised. Raises `UserError`."""
        size, most = self.config.model.vision.image_size, self.config.data.max_pixels
        return torch.stack([pixels_of(image, size, most) for image in many(images)])

    def prepare_texts(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """Ids int64 (B, L) and mask bool (B, L) of cleaned texts. Raises `ConfigError`: nothing is left of a text."""
        rows = []
        for text in many(texts):
            rows.append(clean_caption(text, self.config.data.max_words))
            if len(self._tokenizer.encode(rows[-1])) < 2:
                raise ConfigError(f"nothing is left of the text {text!r} after cleaning: give one with words in it")
        return self._tokenizer(rows)

    @torch.no_grad()
    def encode_image(self, images: Images, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """ITC features of pictures, float32 (B, embed_dim) of length 1; their products with texts' are similarities.

        Args:
            images: one or many, of any size.
            batch_size: pictures per forward pass.

        Raises:
            UserError: a picture that cannot be read, or a model without ITC features.
        """
        albef = self._contrastive("encode_image").model
        pixels = (self._to(self.prepare_images(part)) for part in batches(images, batch_size))
        parts = [albef.project_image(albef.encode_image(part)) for part in pixels]
        return torch.cat(parts).float()

    @torch.no_grad()
    def encode_text(self, texts: Texts, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """ITC features of texts, float32 (B, embed_dim) of length 1. Arguments and errors as `encode_image`."""
        albef = self._contrastive("encode_text").model
        parts = []
        for part in batches(texts, batch_size):
            ids, mask = self._tokens(part)
            parts.append(albef.project_text(albef.encode_text(ids, mask), mask))
        return torch.cat(parts).float()

    @torch.no_grad()
    def match(self, images: Images, texts: Texts, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """Probability that picture and text belong together (ITM), float32 (B,).

        Args:
            images: as many as texts, or one for all of them.
            texts: as many as pictures, or one for all of them.
            batch_size: pairs per forward pass.

        Raises:
            UserError: numbers that do not go together, a picture that cannot be read, or a model without ITM head.
        """
        task = self._contrastive("match")
        pictures, words = paired(many(images), many(texts))
        alone = len(pictures) == 1 < len(words)
        parts = []
        shared = task.model.encode_image(self._to(self.prepare_images(pictures))) if alone else None
        for start in range(0, len(words), batch_size):
            ids, mask = self._tokens(words[start : start + batch_size])
            index = (None,) * (len(ids) if alone else 1)  # one picture meets each text
            embeds = shared
            if embeds is None:
                embeds = task.model.encode_image(self._to(self.prepare_images(pictures[start : start + batch_size])))
            cls = torch.zeros(len(ids), 1, dtype=torch.int64, device=self.device)
            [hidden] = task.model.fuse(embeds, [FusionPass(task.model.encode_text(ids, mask), mask, index, cls)])
            parts.append(F.softmax(task.itm_head(hidden[:, 0]).float(), dim=-1)[:, 1])
        return torch.cat(parts)

    @torch.no_grad()
    def answer(
        self,
        images: Images,
        questions: Texts,
        answers: Sequence[str] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        max_tokens: int = 10,
    ) -> list[str]:
        """An answer per question.

        Args:
            images: as many as questions, or one for all of them.
            questions: one or many.
            answers: choose among these, as the released code ranks them; None: write freely.
            batch_size: questions per forward pass.
            max_tokens: longest free answer.

        Raises:
            UserError: numbers that do not go together, a picture that cannot be read, or a model without answer decoder.
        """
        task = self._of(VqaTask, "answer")
        pictures, words = paired(many(images), many(questions))
        pictures = pictures * len(words) if len(pictures) == 1 else pictures
        given: list[str] = []
        for start in range(0, len(words), batch_size):
            part = slice(start, start + batch_size)
            batch = self._batch(self._to(self.prepare_images(pictures[part])), words[part])
            embeds = task.fuse_question(batch)
            if answers is None:
                given += self._written(task, embeds, batch.token_mask, max_tokens)
            else:
                given += self._ranked(task, embeds, batch.token_mask, answers)
        return given

    @torch.no_grad()
    def classify(self, images: Images, texts: Texts, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """Probability of each class, float32 (B, num_classes): entailment per pair, NLVR2 per text and two pictures.

        Args:
            images: as many as texts times the pictures per text, those of a text in a row.
            texts: one or many.
            batch_size: texts per forward pass.

        Raises:
            UserError: numbers that do not go together, a picture that cannot be read, or a model without classes.
        """
        task = self._of(ClassificationTask, "classify")
        pictures, words, each = many(images), many(texts), task.config.num_images
        if len(pictures) != each * len(words):
            raise ConfigError(f"{len(pictures)} pictures do not go with {len(words)} texts: give {each} per text")
        parts = []
        for start in range(0, len(words), batch_size):
            part = words[start : start + batch_size]
            pixels = self._to(self.prepare_images(pictures[start * each : (start + len(part)) * each]))
            batch = self._batch(pixels.view(len(part), each, *pixels.shape[1:]), part)
            labels = torch.zeros(len(part), dtype=torch.int64, device=self.device)
            logits = task.logits(ClassificationBatch(**vars(batch), labels=labels))
            parts.append(F.softmax(logits.float(), dim=-1))
        return torch.cat(parts)

    def ground(
        self,
        image: ImageInput,
        text: str,
        boxes: Sequence[Sequence[float]] | None = None,
        *,
        layer: int | None = None,
    ) -> Grounding:
        """Where `text` is in `image`: Grad-CAM of the ITM score over cross-attention (paper section 5, grounding).

        Args:
            image: one picture.
            text: one expression.
            boxes: (left, top, right, bottom) in pixels of the picture, to be ranked by the map.
            layer: multimodal layer, from 0; None: the middle one, the paper's third of six.

        Raises:
            UserError: a picture or box that cannot be used, no such layer, or a model without ITM head.
        """
        task = self._contrastive("ground")
        depth = self.config.model.text.num_fusion_layers
        layer = middle_layer(task.model) if layer is None else layer
        if not 0 <= layer < depth:
            raise ConfigError(f"layer {layer} is not one of the {depth} multimodal layers: give 0 to {depth - 1}")
        pixels = self._to(self.prepare_images(image))
        ids, mask = self._tokens([text])
        maps = ground_text(task.model, task.itm_head, pixels, ids, mask, layer)
        heatmap = upscale(maps.sentence[0].cpu(), *size_of(image, self.config.data.max_pixels))
        tokens = self._tokenizer.decode(ids[0].tolist())
        words = tuple(zip(tokens, maps.tokens[0].float().cpu(), strict=True))
        return Grounding(heatmap, words, _ranked_boxes(heatmap, boxes or ()))

    def _ranked(self, task: VqaTask, embeds: Tensor, mask: Tensor, answers: Sequence[str]) -> list[str]:
        ids, answer_mask = (part.to(self.device) for part in self._with_end()(list(answers)))
        best, _ = task.rank_answers(embeds, mask, ids, answer_mask, task.config.k_test)
        return [answers[row] for row in best[:, 0].tolist()]

    def _written(self, task: VqaTask, embeds: Tensor, mask: Tensor, max_tokens: int) -> list[str]:
        tokenizer = self._tokenizer
        rows = task.generate(embeds, mask, start_id=tokenizer.cls_id, end_id=tokenizer.sep_id, max_tokens=max_tokens)
        words = [tokenizer.decode([token for token in row if token != tokenizer.pad_id]) for row in rows.tolist()]
        return [" ".join(pieces).replace(" ##", "") for pieces in words]

    def _with_end(self) -> CaptionTokenizer:
        """Answers end with [SEP], as in training."""
        data = self.config.data
        return CaptionTokenizer(data.vocab_file, data.max_tokens, sep_token=True)

    def _batch(self, images: Tensor, texts: Sequence[str]) -> Batch:
        ids, mask = self._tokens(texts)
        return Batch(images=images, token_ids=ids, token_mask=mask, positions=torch.arange(len(ids)), keys=())

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.prepare_texts(texts)
        return ids.to(self.device), mask.to(self.device)

    def _to(self, images: Tensor) -> Tensor:
        return images.to(device=self.device, dtype=self.dtype)

    def _contrastive(self, method: str) -> ContrastiveTask:
        return self._of(ContrastiveTask, method)

    def _of(self, task_type: type[_T], method: str) -> _T:
        if not isinstance(self.task, task_type):
            kinds = " or ".join(kind.name for kind in TASKS.values() if method in kind.uses)
            raise WeightsError(f"{method} needs a model of kind {kinds}, this one is of kind {self.kind}: load such a model")
        return self.task


def _ranked_boxes(heatmap: Tensor, boxes: Sequence[Sequence[float]]) -> tuple[tuple[float, Corners], ...]:
    """(score, corners) of boxes, the parts outside of the picture left out, best first."""
    height, width = heatmap.shape
    given: list[Corners] = [(float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in boxes]
    inside = []
    for left, top, right, bottom in given:
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if int(left) >= int(right) or int(top) >= int(bottom):
            raise ConfigError(f"a box covers no pixel of the {width} x {height} picture: give left, top, right, bottom")
        inside.append((left, top, right - left, bottom - top))
    scores = score_boxes(heatmap, inside).tolist() if inside else []
    return tuple(sorted(zip(scores, given, strict=True), key=lambda item: -item[0]))


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise MachineError(f"device {device} cannot be used ({str(error).partition(chr(10))[0]}): give cpu or cuda") from None


_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp64": torch.float64,
}


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or not chosen.is_floating_point:
        raise ConfigError(f"dtype {dtype} cannot be used: give one of {', '.join(_DTYPES)}, or a torch dtype of floats")
    return chosen
