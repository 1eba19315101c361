"""Exporting a model: `torch.export` programs, ONNX files made of them, both checked against the model before they stay.

    FOLDER/
        image.onnx  text.onnx  match.onnx     with their weights; batch and text length are free
        image.pt2   text.pt2   match.pt2      the same for torch.export.load
        config.json  preprocessor_config.json  vocab.txt  README.md

Texts must be cleaned and tokenised, pictures resized and normalised as `AlbefModel.prepare_texts` and `prepare_images` do.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef_ds.checkpoint.formats import native
from albef_ds.checkpoint.formats.whole_model import WholeModel, portable
from albef_ds.common.atomic_files import atomic_path
from albef_ds.common.errors import MachineError, WeightsError
from albef_ds.common.run_files import CONFIG_NAME
from albef_ds.config import files
from albef_ds.inference.export.modules import Part, parts_of
from albef_ds.inference.model import AlbefModel
from albef_ds.tasks.contrastive import ContrastiveTask

FORMATS = ("onnx", "torch")
OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between an exported program and the model, absolute."""
_BATCH, _LENGTH, _TRACED = 3, 7, 2


def export(model: WholeModel, folder: Path, formats: Sequence[str] = FORMATS) -> dict[str, float]:
    """Write the programs of `model` to the new `folder`.

    Args:
        model: with a student that has ITC features and an ITM head.
        folder: must not exist; it appears whole or not at all.
        formats: of `FORMATS`.

    Returns:
        File name -> largest absolute difference from the model, on a batch and a text length other than those traced.

    Raises:
        UserError: a model of another kind, `onnx` is not installed, or the folder exists or cannot be written.
    """
    if folder.exists():
        raise MachineError(f"{folder} exists: give another name")
    if "onnx" in formats:
        check_onnx()
    parts = _parts(model)
    try:
        with atomic_path(folder) as room:
            room.mkdir()
            differences = _write_all(parts, model, room, formats)
            _describe(model, room)
    except OSError as error:
        raise MachineError(f"{folder} cannot be written ({error.strerror}): give another place") from None
    return differences


def check_onnx() -> None:
    """Raise `MachineError` unless what ONNX files need is installed."""
    try:
        import onnx  # noqa: F401 (optional package)
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MachineError(f"{error.name} is not installed: run `pip install albef-ds[onnx]`, or take the format torch") from None


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What onnxruntime gives for `inputs` on the CPU."""
    import onnxruntime  # optional package

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(output) for output in outputs]


def _parts(model: WholeModel) -> tuple[Part, ...]:
    # The plain form of attention decides nothing by shapes, so one traced program serves them all.
    config = replace(model.config, compute=replace(model.config.compute, attention="plain", itm_cls_only=False))
    loaded = AlbefModel(replace(model, config=config), device=torch.device("cpu"), dtype=torch.float32)
    task = loaded.task
    if not isinstance(task, ContrastiveTask):
        raise WeightsError(f"a model of kind {loaded.kind} has no two towers: export one of kind pretrain or retrieval")
    return parts_of(task.model, task.itm_head)


def _write_all(parts: Sequence[Part], model: WholeModel, room: Path, formats: Sequence[str]) -> dict[str, float]:
    differences = {}
    for part in parts:
        with torch.no_grad(), _quiet():
            program = _trace(part, model)
        if "torch" in formats:
            path = room / f"{part.name}.pt2"
            torch.export.save(program, path)
            loaded = torch.export.load(path).module()
            differences[path.name] = _difference(part, model, lambda *inputs, loaded=loaded: _many(loaded(*inputs)))
        if "onnx" in formats:
            path = room / f"{part.name}.onnx"
            with _quiet():
                made = torch.onnx.export(
                    program, (), input_names=part.inputs, output_names=part.outputs, opset_version=OPSET, dynamo=True
                )
            assert made is not None
            made.save(path, external_data=_nbytes(part) > 1_500_000_000)  # protobuf's limit is 2 GB

            def run(*inputs: Tensor, part: Part = part, path: Path = path) -> list[Tensor]:
                return run_onnx(path, dict(zip(part.inputs, inputs, strict=True)))

            differences[path.name] = _difference(part, model, run)
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise MachineError(f"{name} differs from the model by {difference:.1e}: take another version of torch or onnxruntime")
    return differences


def _trace(part: Part, model: WholeModel) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=2, max=model.config.model.text.max_positions)
    shapes = {
        "images": {0: batch},
        "image_embeds": {0: batch},
        "token_ids": {0: batch, 1: length},
        "token_mask": {0: batch, 1: length},
        "text_embeds": {0: batch, 1: length},
    }
    inputs = _inputs(part, model, _TRACED, _TRACED + 3)
    return torch.export.export(part.module, inputs, dynamic_shapes=tuple(shapes[name] for name in part.inputs), strict=False)


def _inputs(part: Part, model: WholeModel, batch: int, length: int) -> tuple[Tensor, ...]:
    """Random inputs; the texts of different lengths."""
    config = model.config.model
    generator = torch.Generator().manual_seed(batch)
    length = min(length, config.text.max_positions)
    made = {
        "images": torch.randn(batch, 3, config.vision.image_size, config.vision.image_size, generator=generator),
        "image_embeds": torch.randn(batch, config.vision.num_tokens, config.vision.width, generator=generator),
        "token_ids": torch.randint(5, config.text.vocab_size, (batch, length), generator=generator),
        "token_mask": torch.arange(length)[None] < length - torch.arange(batch)[:, None] % (length - 1),
        "text_embeds": torch.randn(batch, length, config.text.width, generator=generator),
    }
    return tuple(made[name] for name in part.inputs)


def _difference(part: Part, model: WholeModel, program: Any) -> float:
    inputs = _inputs(part, model, _BATCH, _LENGTH)
    with torch.no_grad():
        expected = _many(part.module(*inputs))
        got = program(*inputs)
    return max(float((left - right).abs().max()) for left, right in zip(got, expected, strict=True))


def _many(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _nbytes(part: Part) -> int:
    return sum(parameter.nbytes for parameter in part.module.parameters())


def _describe(model: WholeModel, room: Path) -> None:
    native.save_preparation(model, room)
    config = portable(model.config)
    files.save(replace(config, data=replace(config.data, vocab_file=native.VOCAB_NAME)), room / CONFIG_NAME)
    text = "\n".join(
        [
            "# Exported ALBEF",
            "",
            *[f"{number}. {json.dumps(step)}" for number, step in enumerate(model.lineage, start=1)],
            "",
            "`image`: images -> image_features, image_embeds. `text`: token_ids, token_mask -> text_features, text_embeds.",
            "`match`: image_embeds, text_embeds, token_mask -> probability. Similarity is the product of features.",
            "",
        ]
    )
    (room / "README.md").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters report their progress on standard output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
