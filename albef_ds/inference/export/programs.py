"""Exports a model as `torch.export` programs and ONNX files made from them; both are compared with the model first.

    FOLDER/
        image.onnx  text.onnx  match.onnx     with their weights; any batch size and text length
        image.pt2   text.pt2   match.pt2      the same for torch.export.load
        config.json  preprocessor_config.json  vocab.txt  README.md

Inputs must be prepared as `AlbefModel.prepare_texts` (clean, tokenise) and `prepare_images` (resize, normalise) do.
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
from albef_ds.data.text.tokenizer_file import CLEANING
from albef_ds.inference.export.modules import ProgramSpec, program_specs
from albef_ds.inference.model import AlbefModel
from albef_ds.tasks.contrastive import ContrastiveTask

FORMATS = ("onnx", "torch")
OPSET = 18
TOLERANCE = 1e-4
"""Largest absolute difference allowed between an exported program and the model."""
_BATCH, _LENGTH, _TRACED = 3, 7, 2


def export(model: WholeModel, folder: Path, formats: Sequence[str] = FORMATS) -> dict[str, float]:
    """Writes the programs of `model` to the new `folder`.

    Args:
        model: has a student with ITC features and an ITM head.
        folder: must not exist; it is renamed into place when complete.
        formats: some of `FORMATS`.

    Returns:
        File name -> largest absolute difference from the model, for another batch size and text length than were traced.

    Raises:
        UserError: the model is of another kind, `onnx` is not installed, or the folder exists or cannot be written.
    """
    if folder.exists():
        raise MachineError(f"{folder} exists: give another name")
    if "onnx" in formats:
        check_onnx()
    specs = _specs(model)
    try:
        with atomic_path(folder) as scratch:
            scratch.mkdir()
            differences = _write_all(specs, model, scratch, formats)
            _describe(model, scratch)
    except OSError as error:
        raise MachineError(f"{folder} cannot be written ({error.strerror}): give another place") from None
    return differences


def check_onnx() -> None:
    """Raises `MachineError` if a package for ONNX export is not installed."""
    try:
        import onnx  # noqa: F401 (optional package)
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MachineError(
            f"{error.name} is not installed: run `pip install albef-ds[onnx]`, or choose the format torch"
        ) from None


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Outputs of onnxruntime for `inputs`, on the CPU."""
    import onnxruntime  # optional package

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(output) for output in outputs]


def _specs(model: WholeModel) -> tuple[ProgramSpec, ...]:
    # Plain attention does not branch on shapes, so one traced program works for all of them.
    config = replace(model.config, compute=replace(model.config.compute, attention="plain", itm_cls_only=False))
    loaded = AlbefModel(replace(model, config=config), device=torch.device("cpu"), dtype=torch.float32)
    task = loaded.task
    if not isinstance(task, ContrastiveTask):
        raise WeightsError(f"a model of kind {loaded.kind} has no image and text tower: export one of kind pretrain or retrieval")
    return program_specs(task.model, task.itm_head)


def _write_all(specs: Sequence[ProgramSpec], model: WholeModel, scratch: Path, formats: Sequence[str]) -> dict[str, float]:
    differences = {}
    for spec in specs:
        with torch.no_grad(), _quiet():
            program = _trace(spec, model)
        if "torch" in formats:
            path = scratch / f"{spec.name}.pt2"
            torch.export.save(program, path)
            loaded = torch.export.load(path).module()
            differences[path.name] = _difference(spec, model, lambda *inputs, loaded=loaded: _many(loaded(*inputs)))
        if "onnx" in formats:
            path = scratch / f"{spec.name}.onnx"
            with _quiet():
                made = torch.onnx.export(
                    program, (), input_names=spec.inputs, output_names=spec.outputs, opset_version=OPSET, dynamo=True
                )
            assert made is not None
            size = sum(parameter.nbytes for parameter in spec.module.parameters())
            made.save(path, external_data=size > 1_500_000_000)  # protobuf's limit is 2 GB
            differences[path.name] = _difference(
                spec, model, lambda *inputs, spec=spec, path=path: run_onnx(path, dict(zip(spec.inputs, inputs, strict=True)))
            )
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise MachineError(
                f"{name} differs from the model by {difference:.1e}: install another version of torch or onnxruntime"
            )
    return differences


def _trace(spec: ProgramSpec, model: WholeModel) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=2, max=model.config.model.text.max_positions)
    image, text = {0: batch}, {0: batch, 1: length}
    shapes = {"images": image, "image_embeds": image, "token_ids": text, "token_mask": text, "text_embeds": text}
    inputs = _inputs(spec, model, _TRACED, _TRACED + 3)
    return torch.export.export(spec.module, inputs, dynamic_shapes=tuple(shapes[name] for name in spec.inputs), strict=False)


def _inputs(spec: ProgramSpec, model: WholeModel, batch: int, length: int) -> tuple[Tensor, ...]:
    """Random inputs, with texts of different lengths."""
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
    return tuple(made[name] for name in spec.inputs)


def _difference(spec: ProgramSpec, model: WholeModel, program: Any) -> float:
    inputs = _inputs(spec, model, _BATCH, _LENGTH)
    with torch.no_grad():
        expected, got = _many(spec.module(*inputs)), program(*inputs)
    return max(float((left - right).abs().max()) for left, right in zip(got, expected, strict=True))


def _many(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _describe(model: WholeModel, scratch: Path) -> None:
    native.save_preparation(model, scratch)
    config = portable(model.config)
    files.save(replace(config, data=replace(config.data, vocab_file=native.VOCAB_NAME)), scratch / CONFIG_NAME)
    lines = [
        "# Exported ALBEF\n",
        *[f"{number}. {json.dumps(step)}" for number, step in enumerate(model.lineage, start=1)],
        "\n`image`: images -> image_features, image_embeds. `text`: token_ids, token_mask -> text_features, text_embeds.",
        "`match`: image_embeds, text_embeds, token_mask -> probability. Similarity is the product of features.\n",
        f"`tokenizer.json` makes token_ids from captions, which it cleans first: {CLEANING}.\n",
    ]
    (scratch / "README.md").write_text("\n".join(lines), encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings and standard output, on which the exporters report progress."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
