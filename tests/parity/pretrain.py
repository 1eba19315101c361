"""The pretraining cases: three optimizer steps of `PretrainTask` against the released code's."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.config.schema import ComputeConfig, ModelConfig, OptimConfig, PretrainConfig, TextConfig, VisionConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.engine.local import LocalEngine
from albef_ds.models.losses.negatives import sample_negatives
from albef_ds.models.momentum import DenseMomentum
from albef_ds.tasks.pretrain import PretrainTask
from tests.golden import recipe
from tests.parity.case import Deviations, GoldenCase, compare_array, compare_fingerprint
from tests.parity.names import released_name

_CPU = torch.device("cpu")
_LOSSES = {"mlm": "loss_mlm", "itc": "loss_ita", "itm": "loss_itm"}


class _HardestNegatives(PretrainTask):
    """Takes the hardest negative instead of drawing one, as the golden runs do, and remembers which."""

    drawn: list[list[int]]

    def draw(self, sim: Tensor, allowed: Tensor, own: Tensor, *keys: Any) -> Tensor:
        chosen = sample_negatives(sim, allowed, own)
        self.drawn.append(chosen.tolist())
        return chosen


def model_config(config: dict[str, Any]) -> ModelConfig:
    """Our model configuration of a golden directory's config.json."""
    bert, vit = config["bert"], config["vit"]
    assert bert["encoder_width"] == vit["embed_dim"]
    return ModelConfig(
        vision=VisionConfig(
            image_size=config["image_res"], width=vit["embed_dim"], depth=vit["depth"], num_heads=vit["num_heads"]
        ),
        text=TextConfig(
            vocab_size=bert["vocab_size"],
            width=bert["hidden_size"],
            num_layers=bert["fusion_layer"],
            num_fusion_layers=bert["num_hidden_layers"] - bert["fusion_layer"],
            num_heads=bert["num_attention_heads"],
            intermediate_width=bert["intermediate_size"],
            max_positions=bert["max_position_embeddings"],
            layer_norm_eps=bert["layer_norm_eps"],
            dropout=0.0,
        ),
        embed_dim=config["embed_dim"],
    )


def _fill(task: PretrainTask, case: GoldenCase, dtype: torch.dtype) -> None:
    config, layers = case.config, task.model.config.text.num_layers
    filled = set()
    groups = [("", task.named_parameters(), False), ("base.", task.momentum.modules.named_parameters(), True)]
    for prefix, parameters, momentum in groups:
        for name, parameter in parameters:
            golden = released_name(prefix + name, layers, momentum=momentum)
            value = recipe.parameter(config["seed"], golden, tuple(parameter.shape), config["temp"])
            parameter.data = torch.from_numpy(value).to(dtype)
            filled.add(golden)
    assert filled == case.parameter_names(), f"names differ: {sorted(filled ^ case.parameter_names())[:4]}"
    # Re-tie: `.data` was replaced tensor by tensor.
    for modules in (task.base, task.momentum.modules):
        modules["mlm_head"].decoder.weight = modules["albef"].text_encoder.embeddings.word.weight
    for name, buffer in (("image_queue", "images"), ("text_queue", "texts")):
        value = recipe.queue(config["seed"], name, config["embed_dim"], config["queue_size"])
        setattr(task.queue, buffer, torch.from_numpy(value).T.contiguous().to(dtype))


def _batch(config: dict[str, Any], step: int, dtype: torch.dtype) -> ImageTextBatch:
    inputs = {name: torch.from_numpy(value) for name, value in recipe.batch("pretrain", config, step).items()}
    rows = torch.arange(len(inputs["image"])) + step * len(inputs["image"])
    return ImageTextBatch(
        images=inputs["image"].to(dtype),
        token_ids=inputs["ids"],
        token_mask=inputs["att"].bool(),
        masked_ids=inputs["mlm_ids"],
        mlm_labels=inputs["mlm_labels"],
        image_ids=rows,
        caption_ids=rows,
        positions=rows,
    )


def _record_outputs(task: PretrainTask) -> dict[str, list[Tensor]]:
    """Outputs of the modules that a golden array exists for, under the released names; `_m` for the momentum copy."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)

    def record(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _module, _args, output: outputs[name].append(output.detach()))

    for suffix, albef in (("", task.model), ("_m", task.momentum.modules["albef"])):
        for name in ("visual_encoder", "text_encoder", "vision_proj", "text_proj"):
            record(name + suffix, getattr(albef, name))
    record("itm_head", task.itm_head)
    record("cls", task.base["mlm_head"])
    record("cls_m", task.momentum.modules["mlm_head"])
    return outputs


def _compare_arrays(report: Deviations, case: GoldenCase, outputs: dict[str, list[Tensor]], batch: ImageTextBatch) -> None:
    golden, rows = case.arrays, len(batch)
    for suffix in ("", "_m"):
        for name in ("visual_encoder", "vision_proj", "text_proj"):
            report.add(name + suffix, "array", compare_array(outputs[name + suffix][0], golden[f"{name}{suffix}#0"]))
        # What stands at padding has no meaning, and packed text leaves zeros there.
        text, expected = outputs["text_encoder" + suffix][0][:rows], golden[f"text_encoder{suffix}.bert#0"]
        tokens = batch.token_mask
        report.add("text_encoder" + suffix, "array", compare_array(text[tokens], expected[tokens.cpu().numpy()]))
        for modality, projection in (("image", "vision_proj"), ("text", "text_proj")):
            feature = F.normalize(outputs[projection + suffix][0], dim=-1)
            report.add(f"{modality}_feat{suffix}", "array", compare_array(feature, golden[f"{modality}_feat{suffix}"]))
        logits = outputs["cls" + suffix]
        if logits:
            expected = golden[f"text_encoder{suffix}.cls#0"]
            masked = batch.mlm_labels >= 0
            got = logits[0] if logits[0].dim() == 2 else logits[0][masked]
            report.add("vocabulary_logits" + suffix, "array", compare_array(got, expected[masked.cpu().numpy()]))
    report.add("itm_logits", "array", compare_array(outputs["itm_head"][0], golden["itm_head#0"]))


def run_case(
    case: GoldenCase, precision: str, compute: ComputeConfig, *, device: torch.device = _CPU, autocast: bool = False
) -> Deviations:
    """Three steps in `precision` (fp32, fp64) with the switches of `compute`; every deviation from the golden run.

    With `autocast` in bf16 beside fp32 weights, whose deviations are beyond the bounds.
    """
    dtype = torch.float32 if precision == "fp32" else torch.float64
    config, golden = case.config, case.numbers(precision)
    settings = PretrainConfig(
        queue_size=config["queue_size"], momentum=config["momentum"], temperature=config["temp"], compat=True
    )
    task = _HardestNegatives(model_config(config), compute, settings)
    task.attach_momentum(DenseMomentum(task.base, settings.momentum, dropout=True))
    _fill(task, case, dtype)
    task.train()
    engine = LocalEngine(task, OptimConfig(), device, autocast=autocast, compat=True)
    layers = task.model.config.text.num_layers
    names = {name: released_name(name, layers) for name, _ in task.named_parameters()}
    report, outputs = Deviations(precision), _record_outputs(task)

    for step, expected in enumerate(golden["steps"]):
        task.drawn = []
        outputs.clear()
        if step == 0:
            # The released code averages before each forward, we after each step: the same sequence once this one is done.
            task.momentum.update()
            for name, tensor in task.momentum.modules.named_parameters():
                released = released_name("base." + name, layers, momentum=True)
                report.add(
                    "momentum after step 1",
                    "momentum",
                    compare_fingerprint(tensor, golden["momentum_after_step1"][released], released),
                )
        temperature = float(task.temperature.detach())
        batch = _batch(config, step, dtype).to(device)
        result = engine.train_step([batch], {"alpha": case.alpha}, learning_rate=1e-4)
        for ours, theirs in _LOSSES.items():
            report.add(f"loss {ours}", "loss", abs(result.losses[ours] / expected[theirs] - 1.0))
        report.add("loss total", "loss", abs(sum(result.losses.values()) / expected["total"] - 1.0))
        report.add("temperature", "temperature", abs(temperature / expected["temp_before_step"] - 1.0))
        report.add("queue pointer", "exact", abs(task.queue.pointer - expected["queue_ptr_after"]))
        drawn = [expected["neg_text_for_image"], expected["neg_image_for_text"]]
        report.add("negatives", "exact", float(task.drawn != drawn))
        if step == 0:
            largest = max(norm for norm, _ in golden["grads_step1"].values())
            for name, parameter in task.named_parameters():
                assert parameter.grad is not None, name
                report.add(
                    "gradient",
                    "gradient",
                    compare_fingerprint(parameter.grad, golden["grads_step1"][names[name]], names[name], largest),
                )
            if case.arrays:
                _compare_arrays(report, case, outputs, batch)
        if step in (0, 2):
            section = f"params_after_step{step + 1}"
            for name, parameter in task.named_parameters():
                if not names[name].endswith(".key.bias") and not names[name].endswith("qkv.bias"):
                    report.add(
                        f"weights after step {step + 1}",
                        "parameter",
                        compare_fingerprint(parameter, golden[section][names[name]], names[name]),
                    )
    for name, buffer in (("image_queue", task.queue.images), ("text_queue", task.queue.texts)):
        report.add("queue after step 3", "queue", compare_fingerprint(buffer.T, golden["queue_after_step3"][name], name))
    return report
