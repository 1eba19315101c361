"""The fine-tuning cases: three optimizer steps, predictions and answer ranking against the released code's."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.config.schema import (
    ClassificationConfig,
    ComputeConfig,
    ModelConfig,
    OptimConfig,
    RetrievalConfig,
    TaskConfig,
    VqaConfig,
)
from albef_ds.data.batch import Batch, ClassificationBatch, ImageTextBatch, VqaBatch
from albef_ds.engine.interface import StepResult
from albef_ds.engine.local import LocalEngine
from albef_ds.models.losses.negatives import sample_negatives
from albef_ds.models.momentum import DenseMomentum
from albef_ds.tasks.base import Task
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.registry import kind_of
from albef_ds.tasks.retrieval import RetrievalTask
from albef_ds.tasks.vqa import VqaTask
from tests.golden import recipe
from tests.parity.case import Deviations, GoldenCase, compare_array, compare_fingerprint
from tests.parity.names import finetuned_name
from tests.parity.pretrain import model_config

KINDS = ("retrieval", "ve", "nlvr", "vqa")
_RELEASED_MOMENTUM = 0.995  # written into the released classes of all but retrieval
_LOSSES = {"itc": "loss_ita", "itm": "loss_itm", "cls": "loss", "answer": "loss"}


class _HardestNegatives(RetrievalTask):
    """Takes the hardest negative instead of drawing one, as the golden runs do, and remembers which."""

    drawn: list[list[int]]

    def draw(self, sim: Tensor, allowed: Tensor, own: Tensor, *keys: Any) -> Tensor:
        chosen = sample_negatives(sim, allowed, own)
        self.drawn.append(chosen.tolist())
        return chosen


def _settings(kind: str, config: dict[str, Any]) -> tuple[ModelConfig, TaskConfig]:
    if kind == "vqa":  # the released class ties the image width to the text width
        width = config["bert"]["hidden_size"]
        config = {**config, "vit": {**config["vit"], "embed_dim": width}, "bert": {**config["bert"], "encoder_width": width}}
    model = model_config(config)
    if kind == "nlvr":  # written into the released class
        model = replace(model, text=replace(model.text, num_layers=6, num_fusion_layers=6))
        return model, ClassificationConfig(num_classes=2, num_images=2, momentum=_RELEASED_MOMENTUM, compat=True)
    if kind == "ve":
        return model, ClassificationConfig(num_classes=3, momentum=_RELEASED_MOMENTUM, compat=True)
    if kind == "vqa":
        return model, VqaConfig(decoder_layers=6, momentum=_RELEASED_MOMENTUM, compat=True)
    return model, RetrievalConfig(
        queue_size=config["queue_size"], momentum=config["momentum"], temperature=config["temp"], compat=True
    )


def _batch(kind: str, config: dict[str, Any], step: int, dtype: torch.dtype) -> Batch:
    inputs = {name: torch.from_numpy(value) for name, value in recipe.batch(kind, config, step).items()}
    size = config["batch"]
    rows = torch.arange(size) + step * size
    common: dict[str, Any] = {
        "images": inputs["image"].to(dtype),
        "token_ids": inputs["ids"],
        "token_mask": inputs["att"].bool(),
        "positions": rows,
    }
    if kind == "retrieval":
        masking = {"masked_ids": inputs["ids"], "mlm_labels": torch.full_like(inputs["ids"], -100)}
        return ImageTextBatch(**common, **masking, image_ids=inputs["idx"], caption_ids=rows)
    if kind == "vqa":
        answers = {"answer_ids": inputs["ans_ids"], "answer_mask": inputs["ans_att"].bool(), "answer_counts": inputs["k"]}
        return VqaBatch(**common, **answers, answer_weights=inputs["weights"].to(dtype))
    images = common.pop("images")
    images = images.view(-1, size, *images.shape[1:]).transpose(0, 1)
    return ClassificationBatch(images=images, **common, labels=inputs["targets"])


def _make(case: GoldenCase, kind: str, dtype: torch.dtype, compute: ComputeConfig) -> tuple[Task, dict[str, str]]:
    """The task with the golden weights, and its parameters' released names."""
    config = case.config
    model, settings = _settings(kind, config)
    make = _HardestNegatives if kind == "retrieval" else kind_of(settings).task
    task: Task = make(model, compute, settings)
    if kind == "retrieval" or case.data["distill"]:
        task.attach_momentum(DenseMomentum(task.base, settings.momentum, dropout=True))  # type: ignore[union-attr]
    layers = model.text.num_layers
    names = {name: finetuned_name(name, layers) for name, _ in task.named_parameters()}
    filled = {names[name]: parameter for name, parameter in task.named_parameters()}
    if task.has_momentum:
        twins = task.momentum.modules.named_parameters()
        filled |= {finetuned_name("base." + name, layers, momentum=True): parameter for name, parameter in twins}
    for name, parameter in filled.items():
        value = recipe.parameter(config["seed"], name, tuple(parameter.shape), config["temp"])
        parameter.data = torch.from_numpy(value).to(dtype)
    differing = sorted(filled.keys() ^ case.parameter_names())
    assert not differing, f"names differ: {differing[:4]}"
    if isinstance(task, RetrievalTask):
        for name, buffer in (("image_queue", "images"), ("text_queue", "texts")):
            value = recipe.queue(config["seed"], name, config["embed_dim"], config["queue_size"])
            setattr(task.queue, buffer, torch.from_numpy(value).T.contiguous().to(dtype))
        task.queue.image_ids.copy_(torch.from_numpy(recipe.image_id_queue(config["queue_size"])))
    return task.train(), names


def _compare_inference(report: Deviations, case: GoldenCase, task: Task, batch: Batch, golden: dict[str, Any]) -> None:
    """Class logits, or the ranking of the answer list, of the freshly filled model."""
    task.eval()
    with torch.no_grad():
        if isinstance(task, ClassificationTask) and "prediction" in case.arrays:
            assert isinstance(batch, ClassificationBatch)
            report.add("prediction", "array", compare_array(task.logits(batch), case.arrays["prediction"]))
        if isinstance(task, VqaTask):
            fused = task.fuse_question(batch)
            ids, mask = (torch.from_numpy(array) for array in recipe.candidates(case.config))
            for ranking in golden["rank"]:
                best, probs = task.rank_answers(fused, batch.token_mask, ids, mask.bool(), ranking["k"])
                report.add(f"top {ranking['k']} answers", "exact", float(best.tolist() != ranking["topk_ids"]))
                deviation = (probs - torch.tensor(ranking["topk_probs"], dtype=probs.dtype)).abs().max()
                report.add("answer probabilities", "probability", float(deviation))
    task.train()


def _record_outputs(task: Task) -> dict[str, list[Tensor]]:
    """Outputs of the modules that golden arrays exist for, under the released names; `_m` for the momentum copy."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)

    def record(name: str, module: torch.nn.Module) -> None:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            outputs[name].extend(one.detach() for one in (output if isinstance(output, list) else [output]))

        module.register_forward_hook(hook)

    for suffix, modules in (("", task.base), ("_m", task.momentum.modules if task.has_momentum else {})):
        if "albef" not in modules:
            continue
        albef = modules["albef"]
        for name in ("visual_encoder", "text_encoder", "multimodal_encoder", "vision_proj", "text_proj"):
            if hasattr(albef, name):
                record(name + suffix, getattr(albef, name))
        if "cls_head" in modules:
            record("cls_head" + suffix, modules["cls_head"])
        if "decoder" in modules:
            record("text_decoder.cls" if not suffix else "text_decoder_m.cls", modules["decoder"].mlm_head)
    if hasattr(task, "itm_head"):
        record("itm_head", task.itm_head)
    return outputs


def _compare_arrays(report: Deviations, case: GoldenCase, outputs: dict[str, list[Tensor]], batch: Batch) -> None:
    golden = case.arrays

    def compare(name: str, got: Tensor, expected: Any) -> None:
        report.add(name, "array", compare_array(got, expected))

    for name, (first, *_) in outputs.items():
        plain, suffix = name.removesuffix("_m"), "_m" if name.endswith("_m") else ""
        if name.startswith("text_decoder"):
            assert isinstance(batch, VqaBatch)
            compare(f"{name} logits", first, golden[f"{name}#0"][:, :-1][batch.answer_mask[:, 1:].numpy()])
        elif plain in ("vision_proj", "text_proj"):
            feature = "image_feat" if plain == "vision_proj" else "text_feat"
            compare(feature + suffix, F.normalize(first, dim=-1), golden[feature + suffix])
        elif plain in ("visual_encoder", "cls_head", "itm_head") or (
            plain == "text_encoder" and isinstance(batch, ImageTextBatch)
        ):
            compare(name, first, golden[f"{name}#0"])
        elif plain == "multimodal_encoder":
            whole = "text_encoder" + suffix
            passes = range(1, 3) if isinstance(batch, ImageTextBatch) else range(1)
            for number, got in zip(passes, outputs[name], strict=False):
                compare(f"{name} pass {number}", got, golden[f"{whole}#{number}"][:, : got.shape[1]])


def _compare_step(report: Deviations, task: Task, result: StepResult, expected: dict[str, Any]) -> None:
    for ours, value in result.losses.items():
        report.add(f"loss {ours}", "finetune loss", abs(value / expected[_LOSSES[ours]] - 1.0))
    report.add("loss total", "finetune loss", abs(sum(result.losses.values()) / expected["total"] - 1.0))
    if isinstance(task, _HardestNegatives):
        report.add("queue pointer", "exact", abs(task.queue.pointer - expected["queue_ptr_after"]))
        drawn = [expected["neg_text_for_image"], expected["neg_image_for_text"]]
        report.add("negatives", "exact", float(task.drawn != drawn))


def _compare_queue(report: Deviations, case: GoldenCase, task: RetrievalTask, golden: dict[str, Any]) -> None:
    """After the third step. The arrays called `after_step1` hold that state too: the golden run kept them by reference."""
    for name, buffer in (("image_queue", task.queue.images), ("text_queue", task.queue.texts)):
        report.add("queue after step 3", "queue", compare_fingerprint(buffer.T, golden["queue_after_step3"][name], name))
        if case.arrays:
            report.add("queue features", "array", compare_array(buffer.T, case.arrays[f"{name}_after_step1"]))
    if case.arrays:
        got = task.queue.image_ids[None].tolist()
        report.add("picture of each queue entry", "exact", float(got != case.arrays["idx_queue_after_step1"].tolist()))


def run_case(case: GoldenCase, precision: str, compute: ComputeConfig) -> Deviations:
    """Inference and three steps in `precision` (fp32, fp64) with the switches of `compute`; every deviation."""
    dtype = torch.float32 if precision == "fp32" else torch.float64
    kind, golden = case.name.split("_")[0], case.numbers(precision)
    task, names = _make(case, kind, dtype, compute)
    report = Deviations(precision)
    _compare_inference(report, case, task, _batch(kind, case.config, 0, dtype), golden)
    engine = LocalEngine(task, OptimConfig(), torch.device("cpu"), compat=True)
    outputs = _record_outputs(task)
    layers = task.model.config.text.num_layers

    if task.has_momentum:
        # The released code averages before each forward, we after each step: the same sequence once this one is done.
        task.momentum.update()
        for name, tensor in task.momentum.modules.named_parameters():
            released = finetuned_name("base." + name, layers, momentum=True)
            deviation = compare_fingerprint(tensor, golden["momentum_after_step1"][released], released)
            report.add("momentum after step 1", "momentum", deviation)
    for step, expected in enumerate(golden["steps"]):
        if isinstance(task, _HardestNegatives):
            task.drawn = []
            temperature = float(task.temperature.detach())
            report.add("temperature", "temperature", abs(temperature / expected["temp_before_step"] - 1.0))
        outputs.clear()
        batch = _batch(kind, case.config, step, dtype)
        result = engine.train_step([batch], {"alpha": case.alpha}, learning_rate=1e-4)
        _compare_step(report, task, result, expected)
        if step == 0:
            largest = max(norm for norm, _ in golden["grads_step1"].values())
            for name, parameter in task.named_parameters():
                assert parameter.grad is not None, name
                expected_gradient = golden["grads_step1"][names[name]]
                deviation = compare_fingerprint(parameter.grad, expected_gradient, names[name], largest)
                report.add("gradient", "gradient", deviation)
            if case.arrays:
                _compare_arrays(report, case, outputs, batch)
        if step in (0, 2):
            section = golden[f"params_after_step{step + 1}"]
            for name, parameter in task.named_parameters():
                if not names[name].endswith((".key.bias", "qkv.bias")):
                    deviation = compare_fingerprint(parameter, section[names[name]], names[name])
                    report.add(f"weights after step {step + 1}", "parameter", deviation)
    if isinstance(task, RetrievalTask):
        _compare_queue(report, case, task, golden)
    return report
