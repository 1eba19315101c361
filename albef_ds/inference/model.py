"""Python interface: `albef_ds.load(path)` returns an `AlbefModel`, whose methods take images and texts.

>>> import albef_ds
>>> from PIL import Image
>>> red, blue = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")

Features, whose products are similarities (here 8 features, from a small model in `folder`):

>>> model = albef_ds.load(folder)
>>> model.encode_image([red, blue]).shape
torch.Size([2, 8])
>>> (model.encode_text(["a red cup", "a blue cup", "the table"]) @ model.encode_image([red, blue]).T).shape
torch.Size([3, 2])

The matching probability, for which the model sees image and text together, and the place of a text in the image:

>>> matches = model.match(red, ["a red cup", "a blue cup"])
>>> bool((0 <= matches).all() and (matches <= 1).all())
True
>>> found = model.ground(red, "red cup", boxes=[(0, 0, 32, 24), (32, 24, 64, 48)])
>>> found.heatmap.shape, [word for word, _ in found.words], len(found.boxes)
(torch.Size([48, 64]), ['[CLS]', 'red', 'cup'], 2)

Answers, chosen from a list or generated, by a model trained for VQA:

>>> vqa = albef_ds.load(vqa_folder)
>>> vqa.answer(red, "what is on the table", answers=["cup", "ball"])[0] in ("cup", "ball")
True
>>> [found] = vqa.answers(red, "what is on the table", ["cup", "ball"])
>>> round(sum(probability for _, probability in found), 3)
1.0
>>> vqa.match(red, "a red cup")
Traceback (most recent call last):
albef_ds.common.errors.WeightsError: match needs a model of kind pretrain or retrieval, but this one is of kind vqa: load another

Everything runs in eval mode, without gradients and random numbers: the same call gives the same result. Not responsible for
training, evaluation over a corpus (`albef-ds evaluate`) or serving.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from albef_ds.checkpoint.formats.read import build_for_inference, read_model
from albef_ds.checkpoint.formats.whole_model import Weights, WholeModel
from albef_ds.common.errors import ConfigError
from albef_ds.common.notices import notice
from albef_ds.config.schema import DataConfig
from albef_ds.data.batch import Batch, ClassificationBatch
from albef_ds.data.text.answers import candidate_ids
from albef_ds.data.text.distinct import DistinctTexts
from albef_ds.data.text.tokenizer import CaptionTokenizer, pad_ids
from albef_ds.inference.device import device_of, dtype_of
from albef_ds.inference.hub import fetched, is_address
from albef_ds.inference.inputs import ImageInput, Images, Texts, batches, many, paired, picture_of, pixels_of
from albef_ds.inference.kept_tokens import KeptTokens
from albef_ds.inference.kinds import require
from albef_ds.inference.matching import match
from albef_ds.metrics.boxes import score_boxes, upscale
from albef_ds.models.gradcam import ground_text, middle_layer
from albef_ds.tasks.base import Task
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.contrastive import ContrastiveTask
from albef_ds.tasks.vqa import VqaTask

_T = TypeVar("_T")
Corners = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""
BATCH_SIZE = 32
"""Default number of images or texts per forward pass."""


@dataclass(frozen=True)
class Grounding:
    """Place of a text in an image."""

    heatmap: Tensor
    """float32 (H, W) over pixels of the image, bicubic between patches: evidence for the whole text."""
    words: tuple[tuple[str, Tensor], ...]
    """Each token and its map (h, w), one cell per patch."""
    boxes: tuple[tuple[float, Corners], ...]
    """(score, corners) of the given boxes, best first; the score is the heat inside over the square root of the area."""


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
    weights: Weights = "student",
    overrides: Sequence[str] = (),
) -> AlbefModel:
    """Loads the model at `path`.

    Args:
        path: model folder, run or checkpoint folder, one of our safetensors files, a released or LAVIS file, or a model on the
            Hub, `hf://organisation/name@revision`.
        device: `auto` takes the GPU if there is one.
        dtype: precision to compute in, such as `torch.bfloat16` or "bf16"; None: float32.
        weights: `student`, or `momentum` for the momentum model.
        overrides: `section.field=value` for settings that a released file does not hold.

    Raises:
        UserError: `path` holds no model or a damaged one, or the device or precision cannot be used.
    """
    found = read_model(fetched(path) if is_address(path) else Path(path), overrides)
    return AlbefModel(found.model.select(weights, queues=False), device=device_of(device), dtype=dtype_of(dtype))


class AlbefModel:
    """A model of any kind; a method that it was not trained for raises `UserError` and names the kinds that support it.

    `task` is the torch module, `config` its settings, `kind` its training task, `lineage` the runs its weights come from.
    """

    def __init__(self, model: WholeModel, *, device: torch.device, dtype: torch.dtype) -> None:
        """Builds the task of `model` on `device` in `dtype`; usually called by `load`."""
        self.config, self.kind, self.lineage = model.config, model.kind, model.lineage
        self.device, self.dtype = device, dtype
        self.task: Task = build_for_inference(model, device, dtype)
        self._said_cut = False

    @cached_property
    def _data(self) -> DataConfig:
        return self.config.evaluation_data

    @cached_property
    def _tokenizer(self) -> CaptionTokenizer:
        tokenizer, size = CaptionTokenizer.from_config(self._data), self.config.model.text.vocab_size
        if tokenizer.vocab_size != size:
            raise ConfigError(
                f"the model has {size} word pieces, but its vocabulary file {tokenizer.vocab_size}: "
                "give the file it was trained with, data.vocab_file=FILE"
            )
        return tokenizer

    def prepare_images(self, images: Images) -> Tensor:
        """Resizes (bicubic) and normalises images to float32 (B, 3, S, S). Raises `UserError` if one cannot be read."""
        size = self.config.model.vision.image_size
        return torch.stack([pixels_of(image, size, self._data) for image in many(images)])

    def picture(self, image: ImageInput) -> Image.Image:
        """The RGB image that the model reads before its size is changed, such as to draw over it. Raises as `prepare_images`."""
        return picture_of(image, self.config.model.vision.image_size, self._data)

    def prepare_texts(self, texts: Texts, *, questions: bool = False) -> tuple[Tensor, Tensor]:
        """Ids int64 (B, L) and mask bool (B, L) of cleaned texts, cut to the settings' limits, which is said once.

        Raises `ConfigError` if cleaning leaves nothing of a text.
        """
        tokenizer, rows = self._tokenizer, []
        for text in many(texts):
            cut_before = tokenizer.num_cut
            rows.append(tokenizer.read(text, question=questions)[1])
            if len(rows[-1]) < 2:
                raise ConfigError(f"nothing is left of the text {text!r} after cleaning: give one with words in it")
            if tokenizer.num_cut > cut_before and not self._said_cut:
                self._said_cut = True
                notice(
                    f"the text {text!r:.60} and others like it are cut to {tokenizer.max_words} words and {tokenizer.max_tokens} "
                    "tokens: data.eval_max_words and data.eval_max_tokens are the limits"
                )
        return pad_ids(rows)

    @torch.no_grad()
    def encode_image(self, images: Images, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """ITC features of images of any size, float32 (B, embed_dim) of unit length; products with texts' are similarities.

        Raises:
            UserError: an image cannot be read, or the model has no ITC features.
        """
        albef = self._contrastive("encode_image").model
        pixels = (self._to(self.prepare_images(part)) for part in batches(images, batch_size))
        return torch.cat([albef.project_image(albef.encode_image(part)) for part in pixels]).float()

    @torch.no_grad()
    def encode_text(self, texts: Texts, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """ITC features of texts, float32 (B, embed_dim) of unit length. Raises as `encode_image` does."""
        albef = self._contrastive("encode_text").model
        tokens = (self._tokens(part) for part in batches(texts, batch_size))
        return torch.cat([albef.project_text(albef.encode_text(ids, mask), mask) for ids, mask in tokens]).float()

    @torch.no_grad()
    def match(self, images: Images, texts: Texts, *, batch_size: int = BATCH_SIZE, kept: KeptTokens | None = None) -> Tensor:
        """Probability that image and text match (ITM), float32 (B,). A single image or text goes with all of the others.

        Tokens of image files are taken from `kept` and added to it.

        Raises:
            UserError: the numbers of images and texts differ, an image cannot be read, or the model has no ITM head.
        """
        task = self._contrastive("match")
        listed, words = paired(many(images), many(texts))
        tokens = [self._tokens(part) for part in batches(words, batch_size)]

        def encode(part: list[ImageInput]) -> Tensor:
            return task.model.encode_image(self._to(self.prepare_images(part)))

        encoder = encode if kept is None else partial(kept.tokens, encode)
        return match(task, listed, DistinctTexts.of(tokens), encoder, batch_size, self.device)

    @torch.no_grad()
    def answer(
        self,
        images: Images,
        questions: Texts,
        answers: Texts | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        max_tokens: int = 10,
    ) -> list[str]:
        """One answer per question.

        Args:
            images: as many as questions, or one for all of them.
            questions: one or many.
            answers: one candidate or several, ranked as in the released code; None: generate the answer.
            batch_size: questions per forward pass.
            max_tokens: longest generated answer.

        Raises:
            UserError: the numbers of images and questions differ, an image cannot be read, or the model has no answer decoder.
        """
        task = self._of(VqaTask, "answer")
        listed, words = paired(many(images), many(questions))
        listed = listed * len(words) if len(listed) == 1 else listed
        given: list[str] = []
        for start in range(0, len(words), batch_size):
            part = slice(start, start + batch_size)
            batch = self._batch(self._to(self.prepare_images(listed[part])), words[part])
            embeds, mask = task.fuse_question(batch), batch.token_mask
            if answers is None:
                given += self._generated(task, embeds, mask, max_tokens)
            else:
                given += [ranked[0][0] for ranked in self._ranked(task, embeds, mask, answers)]
        return given

    @torch.no_grad()
    def answers(
        self, images: Images, questions: Texts, answers: Texts | None = None, *, top: int = 5, max_tokens: int = 10
    ) -> list[list[tuple[str, float]]]:
        """Up to `top` answers to each question with their probabilities, the most probable first.

        Args:
            images: as many as questions, or one for all of them.
            questions: one or many.
            answers: candidates, ranked as `answer` ranks them: probabilities are among the `task.k_test` best by their first
                token. None: answers are searched for with `top` beams: probabilities are among all texts.
            top: number of answers.
            max_tokens: longest generated answer.

        Raises:
            UserError: as `answer`, or `top` is below 1.
        """
        task = self._of(VqaTask, "answer")
        if top < 1:
            raise ConfigError(f"top is {top}: give 1 or more")
        listed, words = paired(many(images), many(questions))
        listed = listed * len(words) if len(listed) == 1 else listed
        found = []
        for image, question in zip(listed, words, strict=True):
            batch = self._batch(self._to(self.prepare_images(image)), [question])
            embeds, mask = task.fuse_question(batch), batch.token_mask
            if answers is None:
                found.append(self._searched(task, embeds, mask, max_tokens, top))
            else:
                [ranked] = self._ranked(task, embeds, mask, answers)
                found.append(ranked[:top])
        return found

    @property
    def class_names(self) -> list[str]:
        """Name of each class of `classify`: `task.class_names`, else SNLI-VE's or NLVR2's, or numbers for others.

        Raises `UserError` if the model has no classes.
        """
        config = self._of(ClassificationTask, "classify").config
        names = list(config.labels)
        return names if len(names) == config.num_classes else [str(number) for number in range(config.num_classes)]

    @torch.no_grad()
    def classify(self, images: Images, texts: Texts, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """Probability of each class, float32 (B, num_classes).

        Args:
            images: one per text for entailment, two for NLVR2, where the images of a text follow each other.
            texts: one or many.
            batch_size: texts per forward pass.

        Raises:
            UserError: the numbers of images and texts do not fit, an image cannot be read, or the model has no classes.
        """
        task = self._of(ClassificationTask, "classify")
        listed, words, each = many(images), many(texts), task.config.num_images
        if len(listed) != each * len(words):
            raise ConfigError(f"{len(listed)} images do not fit {len(words)} texts: give {each} per text")
        parts = []
        for start in range(0, len(words), batch_size):
            part = words[start : start + batch_size]
            pixels = self._to(self.prepare_images(listed[start * each : (start + len(part)) * each]))
            batch = self._batch(pixels.view(len(part), each, *pixels.shape[1:]), part)
            labels = torch.zeros(len(part), dtype=torch.int64, device=self.device)
            logits = task.logits(ClassificationBatch(**vars(batch), labels=labels))
            parts.append(F.softmax(logits.float(), dim=-1))
        return torch.cat(parts)

    def ground(
        self, image: ImageInput, text: str, boxes: Sequence[Sequence[float]] | None = None, *, layer: int | None = None
    ) -> Grounding:
        """Locates `text` in `image` by Grad-CAM of the ITM score over cross-attention (paper section 5, grounding).

        Args:
            image: one image.
            text: one expression.
            boxes: (left, top, right, bottom) in pixels of the image, to be ranked by the map.
            layer: multimodal layer, from 0; None: the middle one, the paper's third of six.

        Raises:
            UserError: an image or box cannot be used, there is no such layer, or the model has no ITM head.
        """
        task = self._contrastive("ground")
        depth = self.config.model.text.num_fusion_layers
        layer = middle_layer(task.model) if layer is None else layer
        if not 0 <= layer < depth:
            raise ConfigError(f"layer {layer} is not one of the {depth} multimodal layers: give 0 to {depth - 1}")
        pixels = self._to(self.prepare_images(image))
        ids, mask = self._tokens([text])
        maps = ground_text(task.model, task.itm_head, pixels, ids, mask, layer)
        heatmap = upscale(maps.sentence[0].cpu(), *self.picture(image).size)
        tokens = self._tokenizer.decode(ids[0].tolist())
        words = tuple(zip(tokens, maps.tokens[0].float().cpu(), strict=True))
        return Grounding(heatmap, words, _ranked_boxes(heatmap, boxes or ()))

    def _ranked(self, task: VqaTask, embeds: Tensor, mask: Tensor, given: Texts) -> list[list[tuple[str, float]]]:
        # Answers end with [SEP], as in training.
        tokenizer, answers = CaptionTokenizer.for_answers(self._data), [given] if isinstance(given, str) else given
        ids, answer_mask = (part.to(self.device) for part in pad_ids(candidate_ids(answers, tokenizer, "`answers`")))
        best, probs = task.rank_answers(embeds, mask, ids, answer_mask, task.config.k_test)
        rows = zip(best.tolist(), probs.tolist(), strict=True)
        return [[(answers[row], prob) for row, prob in zip(*row_probs, strict=True)] for row_probs in rows]

    def _generated(self, task: VqaTask, embeds: Tensor, mask: Tensor, max_tokens: int) -> list[str]:
        tokenizer = self._tokenizer
        rows = task.generate(embeds, mask, start_id=tokenizer.cls_id, end_id=tokenizer.sep_id, max_tokens=max_tokens)
        return [self._text(row) for row in rows.tolist()]

    def _searched(self, task: VqaTask, embeds: Tensor, mask: Tensor, max_tokens: int, beams: int) -> list[tuple[str, float]]:
        ends = {"start_id": self._tokenizer.cls_id, "end_id": self._tokenizer.sep_id, "max_tokens": max_tokens}
        return [(self._text(ids), prob) for ids, prob in task.search(embeds, mask, **ends, beams=beams)]

    def _text(self, ids: Sequence[int]) -> str:
        pieces = self._tokenizer.decode([token for token in ids if token != self._tokenizer.pad_id])
        return " ".join(pieces).replace(" ##", "")

    def _batch(self, images: Tensor, texts: Sequence[str]) -> Batch:
        ids, mask = self._tokens(texts)
        return Batch(images=images, token_ids=ids, token_mask=mask, positions=torch.arange(len(ids)), keys=())

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.prepare_texts(texts, questions=isinstance(self.task, VqaTask))
        return ids.to(self.device), mask.to(self.device)

    def _to(self, images: Tensor) -> Tensor:
        return images.to(device=self.device, dtype=self.dtype)

    def _contrastive(self, method: str) -> ContrastiveTask:
        return self._of(ContrastiveTask, method)

    def _of(self, task_type: type[_T], method: str) -> _T:
        require(self.config, method)
        assert isinstance(self.task, task_type)
        return self.task


def _ranked_boxes(heatmap: Tensor, boxes: Sequence[Sequence[float]]) -> tuple[tuple[float, Corners], ...]:
    """(score, corners) of boxes, best first; parts outside the image do not count."""
    height, width = heatmap.shape
    given: list[Corners] = [(float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in boxes]
    inside = []
    for left, top, right, bottom in given:
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if int(left) >= int(right) or int(top) >= int(bottom):
            raise ConfigError(f"a box covers no pixel of the {width} x {height} image: give left, top, right, bottom")
        inside.append((left, top, right - left, bottom - top))
    scores = score_boxes(heatmap, inside).tolist() if inside else []
    return tuple(sorted(zip(scores, given, strict=True), key=lambda item: -item[0]))
